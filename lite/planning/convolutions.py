"""What a CPU's convolutions take beside the tensors that PyTorch counts (arithmetic only).

oneDNN, which runs them, copies a convolution's input and its weights into an order of its own. Measured with torch
2.13: the peak rises by input, result and weights, for maps of 3 to 116 MB and 3 to 512 channels.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import prod

from . import operators as op
from .lean import CHUNK_BYTES, chunk_frames
from .maps import Level, Map

KERNEL_ELEMENTS = 27


def convolution_copies(levels: Sequence[Level], *, lean: bool) -> int:
    """Bytes of the largest copy, in fp32. `lean`: of a decode in chunks of time."""
    taken = _lean_inputs(levels) if lean else _whole_inputs(levels)
    return max(
        source.nbytes(op.FP32, padded=True) + source.channels * out * KERNEL_ELEMENTS * op.FP32 for source, out in taken
    )


def _whole_inputs(levels: Sequence[Level]) -> Iterator[tuple[Map, int]]:
    """The map that each convolution of an up-block takes, and the channels it makes."""
    for level in levels:
        width = level.after.channels
        yield level.before, width
        yield level.after, width
        if level.factor:
            yield level.after.enlarged(level.factor), width


def _lean_inputs(levels: Sequence[Level]) -> Iterator[tuple[Map, int]]:
    """The same in chunks; what is enlarged comes in chunks that are a multiple of its source's."""
    for level in levels:
        width = level.after.channels
        for source in (level.before, level.after):
            yield source.of(frames=max(chunk_frames(source, CHUNK_BYTES, op.FP32))), width
        if level.factor:
            large = level.after.enlarged(level.factor)
            longest = level.factor[0] * max(chunk_frames(level.after, CHUNK_BYTES // prod(level.factor), op.FP32))
            yield large.of(frames=min(longest, large.frames)), width
