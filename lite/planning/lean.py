"""Device memory of the lean decode of a tile: chunks of frames on their way through norms and convolutions.

Follows `models/vae_lean.py`. There every generator keeps what it made last until it is asked for more, so what is alive
depends on the chunk before (p) and on the current one (c).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import prod

from . import operators as op
from .maps import Level, Map
from .types import Moment

CHUNK_BYTES = 32 << 20  # `vae_lean.DEFAULT_CHUNK_BYTES`
CONTEXT_FRAMES = 2


def lean_moments(levels: Sequence[Level], w: int) -> Iterator[Moment]:
    """Each resnet: its input, its inner map, the chunks between them. Each upsampler but the last: its whole output."""
    for index, level in enumerate(levels):
        name, after = f"up-block {index}", level.after.nbytes(w)
        if index == len(levels) - 1:
            source = levels[index - 1]
            yield Moment(f"{name}: first resnet", source.after.nbytes(w) + after + _upsampled_walk(source, level, w))
        else:
            chunks = _walk(level.before, level.after.channels, chunk_frames(level.before, CHUNK_BYTES, w), w)
            yield Moment(f"{name}: first resnet", level.before.nbytes(w) + after + chunks)
        chunks = _walk(level.after, level.after.channels, chunk_frames(level.after, CHUNK_BYTES, w), w)
        yield Moment(f"{name}: resnet", 2 * after + chunks)
        if level.factor and index < len(levels) - 2:
            yield Moment(f"{name}: upsampler", after + _whole_upsampler(level, w))


def chunk_frames(source: Map, chunk_bytes: int, w: int) -> tuple[int, ...]:
    """Frames of each chunk: as many as fit into `chunk_bytes`, one at least."""
    length = max(1, min(source.frames, chunk_bytes // source.of(frames=1).nbytes(w)))
    return tuple(min(length, source.frames - start) for start in range(0, source.frames, length))


@dataclass(frozen=True)
class _Walk:
    """Bytes of what a norm and a convolution make of `frames` frames of a map."""

    source: Map
    out_channels: int
    w: int

    def plain(self, frames: int) -> int:
        return self.source.of(frames=frames).nbytes(self.w)

    def norming(self, frames: int) -> int:
        """While the norm runs: a copy in fp32 and the result, which in fp32 is that copy itself."""
        wide = 0 if self.w == op.FP32 else self.source.of(frames=frames).nbytes(op.FP32)
        return wide + self.plain(frames)

    def extended(self, frames: int) -> int:
        return self.plain(frames + CONTEXT_FRAMES)

    def padded(self, frames: int) -> int:
        return self.source.of(frames=frames).nbytes(self.w, padded=True)

    def out(self, frames: int) -> int:
        return self.source.of(self.out_channels, frames).nbytes(self.w)

    @property
    def context(self) -> int:
        return self.plain(CONTEXT_FRAMES)

    def waiting(self, p: int) -> int:
        """What a paused walk still holds of chunk p, its result among it."""
        return self.plain(p) + self.context + self.padded(p) + self.out(p)

    def moments(self, p: int, c: int) -> Iterator[int]:
        """Chunk c on its way, the result of chunk p (0: there is none) still there."""
        before = self.out(p) if p else 0
        yield self.norming(c) + (self.waiting(p) if p else 0)
        if p:
            yield self.plain(c) + self.context + self.padded(p) + self.extended(c) + before
        yield self.plain(c) + self.extended(c) + self.context + self.padded(c) + before
        yield self.plain(c) + self.context + self.padded(c) + self.out(c) + before


def _walk(source: Map, out_channels: int, lengths: Sequence[int], w: int) -> int:
    walk = _Walk(source, out_channels, w)
    return max(nbytes for p, c in pairwise((0, *lengths)) for nbytes in walk.moments(p, c))


def _upsampled_walk(level: Level, last: Level, w: int) -> int:
    """Two walks, one behind the other: the upsampler's, which is never held, and the first resnet's."""
    assert level.factor is not None
    time = level.factor[0]
    doubled = [time * length for length in chunk_frames(level.after, CHUNK_BYTES // prod(level.factor), w)]
    lengths = (doubled[0] - time + 1, *doubled[1:])
    up, conv = _Walk(last.before, last.before.channels, w), _Walk(last.before, last.after.channels, w)
    return max(nbytes for p, c in pairwise((0, *lengths)) for nbytes in _two_walks(up, conv, p, c))


def _two_walks(up: _Walk, conv: _Walk, p: int, c: int) -> Iterator[int]:
    behind = conv.waiting(p) + up.out(p) if p else 0
    old = up.padded(p) if p else 0
    yield behind + up.plain(c) + up.context + old + up.extended(c)
    yield behind + up.plain(c) + up.context + up.extended(c) + up.padded(c)
    yield behind + up.plain(c) + up.context + up.padded(c) + up.out(c)
    ahead = up.plain(c) + up.context + up.padded(c) + up.out(c)
    yield from (ahead + nbytes for nbytes in conv.moments(p, c))


def _whole_upsampler(level: Level, w: int) -> int:
    """All chunks of the output in a list, then together; while the last is made, its input, context and border."""
    assert level.factor is not None
    large = level.after.enlarged(level.factor)
    doubled = [level.factor[0] * n for n in chunk_frames(level.after, CHUNK_BYTES // prod(level.factor), w)]
    up = _Walk(large, large.channels, w)
    longest = min(max(doubled), large.frames)
    making = up.plain(longest) + up.context + up.padded(longest)
    return max(2 * large.nbytes(w), large.nbytes(w) + making, making + up.extended(longest))
