"""Tile by tile through the VAE, blended as the official code blends.

Spatial neighbours blend first with the tile above, then with the one to the left; temporal neighbours with the tile
before. A tile blends with neighbours that are blended already: the official code does so in place.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from ..tiling import SPACE_RATIO, TIME_RATIO, AxisTiles, TileSpec, space_tiles, time_tiles

TileFunction = Callable[[Tensor], Tensor]
TIME, HEIGHT, WIDTH = 2, 3, 4


def decode_chunks(decode_tile: TileFunction, latents: Tensor, tile: TileSpec) -> Iterator[Tensor]:
    """latents [B, 16, T, H, W] -> chunks [B, 3, f, 8H, 8W] in order of time."""
    frames, height, width = latents.shape[2:]
    rows, columns = space_tiles(height, width, tile, up=SPACE_RATIO)
    time = time_tiles(frames, tile, up=TIME_RATIO)
    return _over_time(lambda part: _over_space(decode_tile, part, rows, columns), latents, time)


def encode_tiled(encode_tile: TileFunction, video: Tensor, tile: TileSpec) -> Tensor:
    """video [B, 3, F, H, W] -> moments [B, 32, T, H/8, W/8]."""
    frames, height, width = video.shape[2:]
    rows, columns = space_tiles(height, width, tile, down=SPACE_RATIO)
    time = time_tiles(frames, tile, down=TIME_RATIO)
    chunks = _over_time(lambda part: _over_space(encode_tile, part, rows, columns), video, time)
    return torch.cat(list(chunks), dim=TIME)


def _over_time(run: TileFunction, x: Tensor, axis: AxisTiles) -> Iterator[Tensor]:
    if len(axis.starts) == 1:
        yield run(x)
        return
    previous: Tensor | None = None
    for start in axis.starts:
        # One input frame more than the tile's size: the causal first output frame stands for it alone.
        current = run(x[:, :, start : start + axis.size + 1])
        if previous is None:
            yield current[:, :, : axis.keep + 1]
        else:
            current = _blend(previous, current[:, :, 1:], TIME, axis.blend)
            if current.shape[TIME]:
                yield current[:, :, : axis.keep]
        previous = current


def _over_space(run: TileFunction, x: Tensor, rows: AxisTiles, columns: AxisTiles) -> Tensor:
    above: list[Tensor] = []
    finished = []
    for top in rows.starts:
        current: list[Tensor] = []
        for index, left in enumerate(columns.starts):
            tile = run(x[..., top : top + rows.size, left : left + columns.size])
            if above:
                tile = _blend(above[index], tile, HEIGHT, rows.blend)
            if current:
                tile = _blend(current[-1], tile, WIDTH, columns.blend)
            current.append(tile)
        kept = [tile[..., : rows.keep, : columns.keep] for tile in current]
        finished.append(torch.cat(kept, dim=WIDTH))
        above = current
    return torch.cat(finished, dim=HEIGHT)


def _blend(previous: Tensor, current: Tensor, dim: int, extent: int) -> Tensor:
    """Fade linearly from the end of `previous` into the start of `current`, which is overwritten, along `dim`."""
    extent = min(previous.shape[dim], current.shape[dim], extent)
    if extent == 0:
        return current
    shape = [1] * current.ndim
    shape[dim] = extent
    ramp = (torch.arange(extent, device=current.device, dtype=torch.float32) / extent).to(current.dtype).view(shape)
    start = current.narrow(dim, 0, extent)
    end = previous.narrow(dim, previous.shape[dim] - extent, extent)
    start.copy_(end * (1 - ramp) + start * ramp)
    return current
