"""Seams of the tiled decode: is the picture rougher where tiles meet than elsewhere?

    python -m hvlite.benchmarks.seams --out benchmarks/results/seams.json

The mean step between neighbouring pixels across the lines where a tile begins or its blend ends, over the mean step
everywhere else: 1 where nothing is to be seen. The same figure of the same latents decoded in one piece is what it
should be, since a picture has edges of its own. Latents: a video of the shipped model at a larger size, and smooth
random ones, on which nothing hides a seam.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..files import write_atomic
from ..lite.arrangement import DecodeArrangement
from ..lite.config import GenerateConfig
from ..lite.pipeline import Pipeline, load
from ..lite.sampling import initial_latents
from ..lite.tiling import SPACE_RATIO, TileSpec, space_tiles

SIDE = 320  # pixels: the official tile of 32 latents cuts it
FRAMES = 5
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


def compare(pipeline: Pipeline, latents: Tensor, tile: TileSpec) -> dict[str, float]:
    """The figure in tiles and in one piece, and how far apart they are."""
    rows, columns = seam_lines(latents.shape[3] * SPACE_RATIO, latents.shape[4] * SPACE_RATIO, tile)
    whole = pipeline.arrange_decode(latents, tiled=False).tile
    ratios = [
        seam_ratio(torch.cat(list(pipeline.decode(latents, DecodeArrangement(each, False)))), rows, columns)
        for each in (tile, whole)
    ]
    return {"tiled": ratios[0], "in_one_piece": ratios[1], "difference": ratios[0] / ratios[1] - 1}


def main() -> None:
    """Parse the arguments and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    torch.set_num_threads(1)
    pipeline = load(device="cpu", keep_loaded=True)
    sources = {"shipped model": shown_latents(pipeline), "smooth": smooth_latents(2, SIDE)}
    rows: list[dict[str, Any]] = [
        {"latents": source, "tile": name, "tile_latents": tile.height, **compare(pipeline, latents, tile)}
        for source, latents in sources.items()
        for name, tile in TILES.items()
    ]
    made = {"benchmark": "seams", "size": [SIDE, SIDE, FRAMES], "torch": torch.__version__, "rows": rows}
    write_atomic(args.out, json.dumps(made, indent=1).encode() + b"\n")
    for row in rows:
        figures = f"{row['tiled']:.3f} / {row['in_one_piece']:.3f} ({row['difference']:+.1%})"
        print(f"{row['latents']}, {row['tile']}: {figures}")


if __name__ == "__main__":
    main()
