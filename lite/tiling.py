"""Tile spans and blend ramps of the VAE (arithmetic only).

The geometry is that of the official `autoencoder_kl_causal_3d.py`: neighbours overlap by a quarter and are blended
linearly; temporal tiles read one latent frame more than their size, and every one but the first drops the frame that
the causal first frame gives twice.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product

from ..errors import ConfigError

SPACE_RATIO = 8
TIME_RATIO = 4


@dataclass(frozen=True, kw_only=True)
class TileSpec:
    """Tile size in latent units. The official geometry is height 32, width 32, frames 16, overlap 0.25."""

    height: int = 32
    width: int = 32
    frames: int = 16
    overlap: float = 0.25

    def __post_init__(self) -> None:
        if not 0 <= self.overlap < 1:
            raise ConfigError(f"tile overlap {self.overlap} is out of range; expected 0 <= overlap < 1")
        for name in ("height", "width", "frames"):
            size: int = getattr(self, name)
            if size < 1 or int(size * (1 - self.overlap)) < 1:
                raise ConfigError(
                    f"tile {name} {size} is too small for overlap {self.overlap}", hint="use a larger tile"
                )


@dataclass(frozen=True)
class AxisTiles:
    """Tiles along one axis. `starts` and `size` in units of the tile's input; `keep` and `blend` of its output."""

    starts: tuple[int, ...]
    size: int
    keep: int
    blend: int


def time_tiles(length: int, tile: TileSpec, *, up: int = 1, down: int = 1) -> AxisTiles:
    """Tiles over `length` frames; the output is `up` times longer (decode) or `down` times shorter (encode)."""
    return _split(length, tile.frames, tile.overlap, up, down, whole=length <= tile.frames * down)


def space_tiles(height: int, width: int, tile: TileSpec, *, up: int = 1, down: int = 1) -> tuple[AxisTiles, AxisTiles]:
    """Tiles over rows and columns. Both are split as soon as one is longer than its tile: the official code's rule."""
    whole = height <= tile.height * down and width <= tile.width * down
    return (
        _split(height, tile.height, tile.overlap, up, down, whole=whole),
        _split(width, tile.width, tile.overlap, up, down, whole=whole),
    )


def tile_names(latents: Sequence[int], tile: TileSpec) -> Iterator[str]:
    """The tiles of a decode of latents (T, H, W) in the order they are decoded, as a message names them."""
    frames, height, width = latents
    time = time_tiles(frames, tile, up=TIME_RATIO)
    rows, columns = space_tiles(height, width, tile, up=SPACE_RATIO)
    places = list(product(time.starts, rows.starts, columns.starts))
    for number, (first, top, left) in enumerate(places, 1):
        yield (f"tile {number} of {len(places)} (latent frames from {first}, rows from {top}, columns from {left})")


def _split(length: int, size: int, overlap: float, up: int, down: int, *, whole: bool) -> AxisTiles:
    if whole:
        return AxisTiles(starts=(0,), size=length, keep=-(-length // down) * up, blend=0)
    stride = int(size * (1 - overlap))
    return AxisTiles(
        starts=tuple(range(0, length, stride * down)), size=size * down, keep=stride * up, blend=(size - stride) * up
    )
