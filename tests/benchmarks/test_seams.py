"""The seam figure on pictures made by hand, and that a tile with all that is the whole frame's is a piece of it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from hvlite import load_vae
from hvlite.benchmarks.seams import seam_lines, seam_ratio, smooth_latents, table
from hvlite.benchmarks.whole_frame import WholeFrame
from hvlite.lite.card import demo_root
from hvlite.lite.models import vae as vae_module
from hvlite.lite.tiling import TileSpec

ROOT = Path(__file__).parents[2]


def test_lines_of_the_official_tile():
    """40 latents: a tile of 32, one from 24 on, which blends with it up to 32."""
    assert seam_lines(320, 320, TileSpec()) == ([192, 256], [192, 256])
    assert seam_lines(256, 256, TileSpec()) == ([], [])


@pytest.mark.parametrize(("jump", "ratio"), [(0, 1.0), (4, 3.0)])
def test_a_slope_with_and_without_a_seam(jump, ratio):
    """2 from pixel to pixel in both directions; with the jump it is 6 across the line between columns 7 and 8."""
    rows, columns = torch.meshgrid(torch.arange(16), torch.arange(16), indexing="ij")
    picture = (2 * (rows + columns) + jump * (columns >= 8)).to(torch.uint8)
    frames = picture[None, :, :, None].expand(2, 16, 16, 3)
    assert seam_ratio(frames, [], [8]) == pytest.approx(ratio)
    elsewhere = 2 + 16 * jump / (14 * 16 + 16 * 15)  # the jump lies among the other steps here
    assert seam_ratio(frames, [8], []) == pytest.approx(2 / elsewhere)


@torch.no_grad()
def test_norms_and_attention_of_the_whole_frame_take_the_difference_away():
    vae = load_vae(demo_root())
    latents = smooth_latents(1, 96) / vae.config.scaling_factor
    plain_norm = vae_module.norm_silu
    whole = WholeFrame(vae, latents)
    torch.testing.assert_close(whole.video, vae.decode(latents), rtol=0, atol=1e-4)
    tile = TileSpec(height=8, width=8)
    off = {
        name: float((whole.decode(tile, **shared) - whole.video).abs().mean())
        for name, shared in {"tiles": {}, "both": {"statistics": True, "attention": True}}.items()
    }
    torch.testing.assert_close(whole.decode(tile), vae.decode(latents, tile))
    assert off["both"] < 0.2 * off["tiles"]
    assert vae_module.norm_silu is plain_norm


def test_the_docs_show_the_results():
    rows = json.loads((ROOT / "benchmarks/results/seams.json").read_text())["rows"]
    docs = (ROOT / "docs/quality.md").read_text(encoding="utf-8")
    assert docs.partition("<!-- seams -->\n")[2].partition("\n<!-- /seams -->")[0] == table(rows)
