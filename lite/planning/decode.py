"""Device memory of the decode: a tile, and the finished tiles around it (arithmetic only).

Follows `models/vae.py` (a tile decoded whole), `models/vae_lean.py` (in chunks of time) and `models/vae_tiles.py`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

from ...quantize.architecture import VaeConfig
from ..tiling import SPACE_RATIO, TIME_RATIO, AxisTiles, TileSpec, space_tiles, time_tiles
from . import operators as op
from .convolutions import convolution_copies
from .lean import lean_moments
from .maps import Level, Map, levels_of
from .types import Moment

SMALL_BYTES = 256 << 10  # statistics of the norms
INDEX_LIMIT = (1 << 31) - 1  # elements that 32 bits count
# What earlier stages left free between pieces that stay (`lite/host_heap.py`): 66 MiB more than planned were seen.
HEAP_HOLES_BYTES = 128 << 20


@lru_cache(maxsize=4096)
def tile_moment(config: VaeConfig, tile: tuple[int, int, int], w: int, *, lean: bool) -> Moment:
    """The moment of decoding one tile of latents (frames, rows, columns) at which most is alive; weights apart."""
    latents = 2 * Map(config.latent_channels, *tile).nbytes(w)  # as they came, and after the first convolution
    levels = list(levels_of(config, tile))
    moments = [*_mid_block(levels[0].before, w), *(lean_moments(levels, w) if lean else _whole_levels(levels, w))]
    most = max(moments, key=lambda moment: moment.nbytes)
    return Moment(most.name, latents + most.nbytes + SMALL_BYTES)


def _mid_block(x: Map, w: int) -> Iterator[Moment]:
    """Attention over all positions: the residual, its norm, Q, K, V, the frames' results and all of them together."""
    size = x.nbytes(w)
    attended = x.frames * x.rows * x.columns * op.FP32
    yield Moment("mid block: attention", 8 * size + attended)
    yield Moment("mid block: convolution", 3 * size + x.nbytes(w, padded=True) + size)


def _whole_levels(levels: Sequence[Level], w: int) -> Iterator[Moment]:
    """Every operation over the whole map. The decoder holds an up-block's input until the block is done."""
    for index, level in enumerate(levels):
        before, after, factor = level.before, level.after, level.factor
        entry, size = before.nbytes(w), after.nbytes(w)
        name = f"up-block {index}"
        yield Moment(f"{name}: first norm", 3 * entry)
        yield Moment(f"{name}: first convolution", 2 * entry + before.nbytes(w, padded=True) + size)
        yield Moment(f"{name}: shortcut", entry + 2 * size + max(0, entry - size))
        yield Moment(f"{name}: convolution", entry + 4 * size + after.nbytes(w, padded=True))
        if factor:
            large = after.enlarged(factor)
            flat = Map(after.channels, after.frames, large.rows, large.columns).nbytes(w)
            doubled = large.nbytes(w) if factor[0] > 1 else 0
            yield Moment(f"{name}: enlarging", entry + size + flat + 2 * doubled)
            kept = large.nbytes(w)
            yield Moment(f"{name}: upsampler", entry + size + kept + large.nbytes(w, padded=True) + kept)


def official_tile(config: VaeConfig) -> TileSpec:
    """The tile geometry of the official code for this VAE."""
    size = config.sample_size // SPACE_RATIO
    return TileSpec(height=size, width=size, frames=config.sample_tsize // TIME_RATIO)


def whole_tile(height: int, width: int, frames: int) -> TileSpec:
    """One tile of the size of the video, given in pixels and frames."""
    latent_frames = (frames - 1) // TIME_RATIO + 1
    return TileSpec(height=height // SPACE_RATIO, width=width // SPACE_RATIO, frames=latent_frames, overlap=0.0)


class StoredVae(Protocol):
    """What a plan of the decode alone needs of a model."""

    @property
    def vae_config(self) -> VaeConfig: ...

    @property
    def vae_elements(self) -> int: ...


@dataclass(frozen=True, kw_only=True)
class VaeSizes:
    """A VAE on its own, for latents that are decoded later."""

    vae_config: VaeConfig
    vae_elements: int


@dataclass(frozen=True, kw_only=True)
class Decode:
    """The size of a decode: the video, the tile, bytes of an element, whole tiles or lean ones."""

    config: VaeConfig
    height: int
    width: int
    frames: int
    tile: TileSpec
    w: int = 2
    lean: bool = False

    @property
    def latent_frames(self) -> int:
        return (self.frames - 1) // TIME_RATIO + 1

    @property
    def space(self) -> tuple[AxisTiles, AxisTiles]:
        """Tiles over rows and columns."""
        return space_tiles(self.height // SPACE_RATIO, self.width // SPACE_RATIO, self.tile, up=SPACE_RATIO)

    @property
    def time(self) -> AxisTiles:
        return time_tiles(self.latent_frames, self.tile, up=TIME_RATIO)

    @property
    def tile_frames(self) -> int:
        """Latent frames that a tile reads."""
        return min(self.latent_frames, self.time.size + (len(self.time.starts) > 1))

    @property
    def tile_shape(self) -> tuple[int, int, int]:
        """Frames, rows and columns of latents in a tile."""
        rows, columns = self.space
        high, wide = self.height // SPACE_RATIO, self.width // SPACE_RATIO
        return self.tile_frames, min(rows.size, high), min(columns.size, wide)

    @property
    def is_countable(self) -> bool:
        """Whether torch's kernels on a card can decode a tile so: whole maps larger than 32 bits count they cannot.

        Replicate padding refuses them, and nearest upsampling counts in 32 bits. Chunks of time are small.
        """
        levels = levels_of(self.config, self.tile_shape)
        return self.lean or all(level.before.nbytes(1, padded=True) <= INDEX_LIMIT for level in levels)

    @property
    def latent_voxels(self) -> int:
        """Latent positions of all tiles together: overlaps are decoded more than once."""
        rows, columns = self.space
        frames = sum(min(self.tile_frames, self.latent_frames - start) for start in self.time.starts)
        return frames * _covered(rows, self.height // SPACE_RATIO) * _covered(columns, self.width // SPACE_RATIO)


def decode_moment(decode: Decode) -> Moment:
    """The moment of a decode at which most is alive on the device, the VAE's weights apart: latents and one tile."""
    high, wide = decode.height // SPACE_RATIO, decode.width // SPACE_RATIO
    latents = decode.config.latent_channels * decode.latent_frames * high * wide * (decode.w + op.FP32)
    moment = tile_moment(decode.config, decode.tile_shape, decode.w, lean=decode.lean)
    return Moment(f"tile, {moment.name}", latents + moment.nbytes)


def cpu_bytes(decode: Decode) -> int:
    """What a decode on a CPU takes beside its tensors: the copies of its largest convolution, holes in the heap."""
    return convolution_copies(list(levels_of(decode.config, decode.tile_shape)), lean=decode.lean) + HEAP_HOLES_BYTES


def host_moment(decode: Decode) -> Moment:
    """The moment at which most decoded pixels are in host memory: tiles leave the device as they are made."""
    rows, columns = decode.space
    layer = _pixels(decode, decode.height, decode.width)
    layers = layer * (len(decode.time.starts) > 1)
    row = len(columns.starts) * _pixels(decode, rows.size * SPACE_RATIO, columns.size * SPACE_RATIO)
    kept = min(decode.time.keep + 1, decode.frames) * decode.height * decode.width * 3
    moments = (
        Moment("rows of tiles", layers + layer + 3 * row),
        Moment("layer of tiles", layers + 2 * layer + 2 * row),
        Moment("frames to uint8", layers + layer + 2 * op.FP32 * kept),
    )
    return max(moments, key=lambda moment: moment.nbytes)


def _pixels(decode: Decode, height: int, width: int) -> int:
    """Bytes of decoded pixels as long as a tile."""
    return 3 * (TIME_RATIO * (decode.tile_frames - 1) + 1) * height * width * decode.w


def _covered(axis: AxisTiles, length: int) -> int:
    return sum(min(axis.size, length - start) for start in axis.starts)
