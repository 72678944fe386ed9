"""Feature maps of the VAE's decoder (arithmetic only)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ...quantize.architecture import VaeConfig

Factor = tuple[int, int, int]
FACTORS: tuple[Factor, ...] = ((1, 2, 2), (2, 2, 2), (2, 2, 2))  # of the three upsamplers


@dataclass(frozen=True)
class Map:
    """A feature map: channels, frames, rows, columns."""

    channels: int
    frames: int
    rows: int
    columns: int

    def nbytes(self, w: int, *, padded: bool = False) -> int:
        """Bytes; `padded`: with a border of one pixel and two frames in front, as a convolution takes it."""
        if padded:
            return self.channels * (self.frames + 2) * (self.rows + 2) * (self.columns + 2) * w
        return self.channels * self.frames * self.rows * self.columns * w

    def of(self, channels: int | None = None, frames: int | None = None) -> Map:
        """The same map with another number of channels or frames."""
        return Map(channels or self.channels, frames or self.frames, self.rows, self.columns)

    def enlarged(self, factor: Factor) -> Map:
        """After an upsampler: the first frame has no twin."""
        time, height, width = factor
        return Map(self.channels, time * (self.frames - 1) + 1, height * self.rows, width * self.columns)


@dataclass(frozen=True)
class Level:
    """An up-block: its input, what its resnets leave, its upsampler's factor."""

    before: Map
    after: Map
    factor: Factor | None


def levels_of(config: VaeConfig, tile: tuple[int, int, int]) -> Iterator[Level]:
    """The decoder's up-blocks for a tile of latents (frames, rows, columns)."""
    channels = config.block_out_channels[::-1]
    current = Map(channels[0], *tile)
    for width, factor in zip(channels, (*FACTORS, None), strict=True):
        yield Level(current, current.of(width), factor)
        current = current.of(width).enlarged(factor) if factor else current
