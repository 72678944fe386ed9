"""PSNR, SSIM and flicker against values known on paper; the command on real files."""

from __future__ import annotations

import itertools
import json
import math
from pathlib import Path

import pytest
import torch

from hvlite.benchmarks.metrics import SSIM_C1, SSIM_C2, flicker, flicker_between, psnr_db, ssim
from hvlite.benchmarks.video_compare import LABEL_HEIGHT, compare_frames, draw_sheet
from hvlite.cli import main
from hvlite.lite.output.video_read import read_video
from hvlite.lite.video import write_video


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(0, 256, shape, generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)


def flat(value: int, height: int = 24, width: int = 32) -> torch.Tensor:
    return torch.full((height, width, 3), value, dtype=torch.uint8)


def test_psnr():
    assert psnr_db(flat(10), flat(13)) == pytest.approx(20 * math.log10(255 / 3))
    assert psnr_db(flat(10), flat(10)) == math.inf


def test_ssim_of_flat_frames_is_the_luminance_term():
    """Without variance nothing but the means is left of the formula."""
    a, b = 100.0, 120.0
    expected = (2 * a * b + SSIM_C1) / (a * a + b * b + SSIM_C1)
    assert ssim(flat(100), flat(120)) == pytest.approx(expected, rel=1e-9)


def test_ssim_against_a_plain_loop_over_windows():
    one, other = noise(14, 13, 3), noise(14, 13, 3, seed=1)
    luma = torch.tensor((0.2126, 0.7152, 0.0722), dtype=torch.float64)
    x, y = one.double() @ luma, other.double() @ luma
    offsets = torch.arange(11, dtype=torch.float64) - 5
    weights = torch.exp(-(offsets[:, None] ** 2 + offsets[None] ** 2) / (2 * 1.5**2))
    weights /= weights.sum()
    values = []
    for row in range(4):
        for column in range(3):
            p, q = (each[row : row + 11, column : column + 11] for each in (x, y))
            mp, mq = (weights * p).sum(), (weights * q).sum()
            vp, vq = (weights * (p - mp) ** 2).sum(), (weights * (q - mq) ** 2).sum()
            cov = (weights * (p - mp) * (q - mq)).sum()
            luminance = (2 * mp * mq + SSIM_C1) / (mp**2 + mq**2 + SSIM_C1)
            values.append(luminance * (2 * cov + SSIM_C2) / (vp + vq + SSIM_C2))
    assert ssim(one, other) == pytest.approx(float(torch.stack(values).mean()), rel=1e-9)
    assert ssim(one, one) == pytest.approx(1.0)
    assert abs(ssim(one, other)) < 0.2
    assert 0 < ssim(one[:5, :7], one[:5, :7]) <= 1.0  # smaller than the window


def test_flicker_counts_changes_and_what_one_adds_to_the_other():
    still = torch.stack([flat(100)] * 4)
    blinking = torch.stack([flat(100), flat(110), flat(100), flat(110)])
    assert flicker(still) == 0
    assert flicker(blinking) == pytest.approx(10)
    assert flicker_between(still, blinking) == pytest.approx(10)
    assert flicker_between(blinking, blinking) == 0
    assert flicker(still[:1]) == 0


def test_comparison_finds_the_worst_frame():
    one = noise(5, 16, 16, 3)
    other = one.clone()
    other[3] = noise(16, 16, 3, seed=9)
    found = compare_frames(one, other)
    assert found.worst_frame == 3
    assert found.psnr_worst_db < found.psnr_db
    assert found.ssim_worst < found.ssim < 1
    assert compare_frames(one, one).psnr_db is None


def test_a_sheet_shows_both_and_the_difference():
    one, other = noise(3, 16, 32, 3), noise(3, 16, 32, 3, seed=2)
    sheet = draw_sheet(one, other, ("a", "b"))
    assert sheet.dtype == torch.uint8
    row = LABEL_HEIGHT + 64 + 8  # four times the size, and the gaps
    assert sheet.shape == (LABEL_HEIGHT + 3 * row, 3 * (128 + 4) + 4, 3)
    for place, frames in enumerate((one, other, (128 + 4 * (other.int() - one.int())).clamp(0, 255))):
        top = LABEL_HEIGHT + place * row + LABEL_HEIGHT + 4
        assert torch.equal(sheet[top : top + 64 : 4, 4 : 4 + 128 : 4], frames[0])
    assert torch.equal(draw_sheet(one, other, ("a", "b")), sheet)


def test_a_sheet_of_large_frames_is_small_and_names_are_never_cut():
    frames = noise(1, 720, 1280, 3)
    assert draw_sheet(frames, frames, ("a", "b")).shape[1] < 400
    wide = draw_sheet(frames, frames, ("a", "a name that is longer than one frame is wide, by far, to the end.mp4"))
    named = wide[LABEL_HEIGHT * 2 + 188 : LABEL_HEIGHT * 3 + 188]  # 180 lines of pixels and the gaps
    inked = (named < 128).all(2).any(0).nonzero()
    assert 328 < int(inked[-1]) < wide.shape[1] - 2
    assert (wide[LABEL_HEIGHT + 40, 400:] == 255).all()


def test_frames_are_numbered_above_their_columns():
    frames = noise(33, 16, 32, 3)
    numbers = draw_sheet(frames, frames, ("a", "b"))[:LABEL_HEIGHT]
    inked = (numbers < 128).all(2).any(0)
    starts = [4 + column * 132 for column in range(6)]
    assert all(inked[start : start + 60].any() and not inked[start - 4 : start].any() for start in starts)


def test_accents_have_letters():
    frames = noise(1, 16, 32, 3)
    sheets = [draw_sheet(frames, frames, (name, "b")) for name in ("Ö", "Ü", "é")]
    assert not any(torch.equal(one, other) for one, other in itertools.combinations(sheets, 2))


@pytest.fixture
def videos(tmp_path: Path) -> dict[str, Path]:
    frames = {"a": noise(5, 16, 32, 3), "b": noise(5, 16, 32, 3, seed=1), "long": noise(9, 16, 32, 3)}
    frames["wide"] = noise(5, 16, 48, 3)
    for name, each in frames.items():
        write_video(tmp_path / f"{name}.mp4", [each], fps=8, settings={})
    return {name: tmp_path / f"{name}.mp4" for name in frames}


def test_command(videos, capsys, tmp_path):
    assert main(["compare", str(videos["a"]), str(videos["b"]), "--sheet", str(tmp_path / "s.png"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    one, other = (read_video(videos[name])[0] for name in ("a", "b"))
    assert found["psnr_db"] == pytest.approx(psnr_db(one, other))
    assert (tmp_path / "s.png").read_bytes().startswith(b"\x89PNG")
    before = (tmp_path / "s.png").read_bytes()
    again = ["compare", str(videos["a"]), str(videos["a"]), "--sheet", str(tmp_path / "s.png")]
    assert main(again) == 2
    assert "--force replaces it" in capsys.readouterr().err
    assert (tmp_path / "s.png").read_bytes() == before
    assert main([*again, "--force"]) == 0
    assert (tmp_path / "s.png").read_bytes() != before
    capsys.readouterr()
    assert main(["compare", str(videos["a"]), str(videos["a"])]) == 0
    assert "equal" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("other", "code", "said"), [("wide", 2, "16x48"), ("long", 2, "has 9"), ("missing", 2, "does not exist")]
)
def test_videos_that_do_not_go_together(videos, capsys, tmp_path, other, code, said):
    assert main(["compare", str(videos["a"]), str(videos.get(other, tmp_path / "missing.mp4"))]) == code
    assert said in capsys.readouterr().err
