"""Seams of the tiled decode: is the picture rougher where tiles meet than elsewhere?

    python -m hvlite.benchmarks.seams --out benchmarks/results/seams.json

The mean step between neighbouring pixels across the lines where a tile begins or its blend ends, over the mean step
everywhere else. The same figure of the same latents decoded in one piece is what it should be, since a picture has
edges of its own. Latents: a video of the shipped model at a larger size, a smooth picture encoded, and smooth noise, on
which nothing hides a seam. Each also with the norm statistics and the attention of the whole frame, to see where seams
come from (`whole_frame.py`).
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..files import write_atomic
from ..lite.config import GenerateConfig
from ..lite.models.vae import AutoencoderKLCausal3D
from ..lite.pipeline import Pipeline, load
from ..lite.sampling import initial_latents
from ..lite.tiling import SPACE_RATIO, TileSpec, space_tiles
from ..lite.video import frames_to_uint8
from .whole_frame import WholeFrame

SIDE = 320  # pixels: the official tile of 32 latents cuts it
FRAMES = 5
SHARED: dict[str, dict[str, bool]] = {
    "tiles": {},
    "statistics": {"statistics": True},
    "attention": {"attention": True},
    "both": {"statistics": True, "attention": True},
}
TILES = {"official": TileSpec(), "half": TileSpec(height=16, width=16), "quarter": TileSpec(height=8, width=8)}


def seam_lines(height: int, width: int, tile: TileSpec) -> tuple[list[int], list[int]]:
    """Pixel rows and columns where a tile begins, and where its blend with the one before ends."""
    axes = space_tiles(height // SPACE_RATIO, width // SPACE_RATIO, tile, up=SPACE_RATIO)
    rows, columns = (
        sorted({at for start in axis.starts[1:] for at in (start * SPACE_RATIO, start * SPACE_RATIO + axis.blend)})
        for axis in axes
    )
    return [at for at in rows if at < height], [at for at in columns if at < width]


def seam_ratio(frames: Tensor, rows: list[int], columns: list[int]) -> float:
    """Mean step across these lines over the mean step elsewhere. frames: uint8 [F, H, W, 3]."""
    values = frames.float()
    down, right = values.diff(dim=1).abs(), values.diff(dim=2).abs()
    across = torch.cat([down[:, [row - 1 for row in rows]].flatten(), right[:, :, [c - 1 for c in columns]].flatten()])
    others_down = [row for row in range(down.shape[1]) if row + 1 not in rows]
    others_right = [column for column in range(right.shape[2]) if column + 1 not in columns]
    elsewhere = torch.cat([down[:, others_down].flatten(), right[:, :, others_right].flatten()])
    return float(across.mean() / elsewhere.mean())


def smooth_latents(frames: int, side: int) -> Tensor:
    """Random waves that change little from cell to cell: [1, 16, T, H, W], spread 1."""
    coarse = torch.randn(1, 16, 2, 3, 3, generator=torch.Generator().manual_seed(5))
    cells = side // SPACE_RATIO
    fine = F.interpolate(coarse, size=(frames, cells, cells), mode="trilinear", align_corners=True)
    return fine / fine.std()


def shown_latents(pipeline: Pipeline) -> Tensor:
    """The final latents of a video of the shipped model."""
    prompt = "a large blue star moves up on a beige background"
    config = GenerateConfig.from_card(pipeline.card, prompt=prompt, seed=7, height=SIDE, width=SIDE, frames=FRAMES)
    *_, (_, latents) = pipeline.denoise(config, pipeline.embed(config), initial_latents(config))
    return latents


def smooth_picture(vae: AutoencoderKLCausal3D, side: int, frames: int) -> Tensor:
    """What the VAE makes of colours that change slowly over the picture: [1, 16, T, H, W]."""
    up, across = torch.meshgrid(torch.linspace(0, 1, side), torch.linspace(0, 1, side), indexing="ij")
    colours = torch.stack([across, 0.3 + 0.4 * up, 1 - 0.7 * (up - 0.5).hypot(across - 0.5)]) * 2 - 1
    moments = vae.encode(colours[None, :, None].expand(1, 3, frames, side, side).to(vae.device, vae.dtype))
    return moments.chunk(2, dim=1)[0].float()


def compare(whole: WholeFrame, tile: TileSpec) -> dict[str, float]:
    """The figure in one piece and in tiles; how far apart, also where tiles have what is the whole frame's."""
    frames = frames_to_uint8(whole.video)
    height, width = frames.shape[1:3]
    rows, columns = seam_lines(height, width, tile)
    in_one_piece = seam_ratio(frames, rows, columns)
    found: dict[str, float] = {"in_one_piece": in_one_piece}
    for name, shared in SHARED.items():
        made = frames_to_uint8(whole.decode(tile, **shared))
        found[f"{name}_difference"] = seam_ratio(made, rows, columns) / in_one_piece - 1
        found[f"{name}_mean_levels"] = float((made.float() - frames.float()).abs().mean())
    return found


@torch.no_grad()
def measure(pipeline: Pipeline) -> Iterator[dict[str, Any]]:
    """A row for each kind of latents and each tile."""
    with pipeline.parts.vae() as vae:
        sources = {
            "shipped model": shown_latents(pipeline) / vae.config.scaling_factor,
            "smooth picture": smooth_picture(vae, SIDE, FRAMES),
            "smooth noise": smooth_latents(2, SIDE) / vae.config.scaling_factor,
        }
        for source, latents in sources.items():
            whole = WholeFrame(vae, latents)
            for name, tile in TILES.items():
                yield {"latents": source, "tile": name, "tile_latents": tile.height, **compare(whole, tile)}


def table(rows: list[dict[str, Any]]) -> str:
    """The rows as Markdown: differences of the seam figure, and of the pixels in grey levels."""
    lines = [
        "| latents | tile | in tiles | the whole frame's norms | its attention | both | tiles differ by | with both |",
        "|---|---|--:|--:|--:|--:|--:|--:|",
    ]
    for row in rows:
        seams = " | ".join(f"{row[f'{name}_difference']:+.1%}" for name in SHARED)
        levels = " | ".join(f"{row[f'{name}_mean_levels']:.2f}" for name in ("tiles", "both"))
        lines.append(f"| {row['latents']} | {row['tile']}, {row['tile_latents']} | {seams} | {levels} |")
    return "\n".join(lines)


def main() -> None:
    """Parse the arguments and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    torch.set_num_threads(1)
    rows = list(measure(load(device="cpu", keep_loaded=True)))
    made = {"benchmark": "seams", "size": [SIDE, SIDE, FRAMES], "torch": torch.__version__, "rows": rows}
    write_atomic(args.out, json.dumps(made, indent=1).encode() + b"\n")
    print(table(rows))


if __name__ == "__main__":
    main()
