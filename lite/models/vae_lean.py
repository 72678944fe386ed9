"""The decoder in chunks of time, for one tile: the whole decode's pixels (up to rounding) in a third of its memory.

A tile of the official geometry (17 x 32 x 32 latents, fp16) takes 7.2 GiB decoded whole: at full resolution every
operation holds several maps of 128 or 256 channels. Here a map is walked through in chunks of frames. A convolution
carries its two frames of context from chunk to chunk. A GroupNorm, whose statistics span all frames, takes one walk to
measure and one to apply. A resnet holds its input and one map of its output, which it finishes in place. The last
upsampler's output, the largest map, is never held but computed anew for each of the three walks over it: less memory
for more time.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...kernels import ops
from .vae import AutoencoderKLCausal3D, CausalConv3d, ResnetBlock, UpBlock, Upsample

DEFAULT_CHUNK_BYTES = 32 << 20


class FrameMap(Protocol):
    """A feature map [B, C, T, H, W] that can be walked through in chunks of frames, several times."""

    @property
    def lengths(self) -> tuple[int, ...]:
        """Frames in each chunk."""

    def chunks(self) -> Iterator[Tensor]:
        """The chunks [B, C, t, H, W] in order."""


@dataclass(frozen=True)
class HeldMap:
    """A map in memory."""

    frames: Tensor
    lengths: tuple[int, ...]

    def chunks(self) -> Iterator[Tensor]:
        """Views of the map."""
        return iter(self.frames.split(self.lengths, dim=2))


@dataclass(frozen=True)
class UpsampledMap:
    """The output of an upsampler, computed on every walk."""

    source: HeldMap
    upsampler: Upsample

    @property
    def lengths(self) -> tuple[int, ...]:
        """Frames in each chunk: the first frame of all has no twin."""
        doubled = [self.upsampler.factor[0] * length for length in self.source.lengths]
        return (doubled[0] - self.upsampler.factor[0] + 1, *doubled[1:])

    def chunks(self) -> Iterator[Tensor]:
        """The chunks, each computed from one chunk of the source."""
        return convolved(self.upsampler.conv, self._enlarged())

    def _enlarged(self) -> Iterator[Tensor]:
        for index, chunk in enumerate(self.source.chunks()):
            yield self.upsampler.enlarge(chunk, starts_video=index == 0)


@torch.no_grad()
def decode_lean(vae: AutoencoderKLCausal3D, latents: Tensor, chunk_bytes: int = DEFAULT_CHUNK_BYTES) -> Tensor:
    """One tile: latents [B, 16, T, H, W] -> video [B, 3, 4(T-1)+1, 8H, 8W]. Chunks hold about `chunk_bytes`."""
    decoder = vae.decoder
    current: FrameMap = held(decoder.mid_block(decoder.conv_in(vae.post_quant_conv(latents))), chunk_bytes)
    last_upsampler = len(decoder.up_blocks) - 2
    for index, block in enumerate(decoder.up_blocks):
        assert isinstance(block, UpBlock)
        for resnet in block.resnets:
            assert isinstance(resnet, ResnetBlock)
            current = through_resnet(resnet, current, chunk_bytes)
        for upsampler in block.upsamplers:
            assert isinstance(upsampler, Upsample)
            assert isinstance(current, HeldMap)
            growth = prod(upsampler.factor)
            current = UpsampledMap(held(current.frames, chunk_bytes // growth), upsampler)
            if index < last_upsampler:
                current = held(torch.cat(list(current.chunks()), dim=2), chunk_bytes)
    return torch.cat(list(convolved(decoder.conv_out, normed(decoder.conv_norm_out, current))), dim=2)


def held(frames: Tensor, chunk_bytes: int) -> HeldMap:
    """A map in memory, cut into chunks of at most `chunk_bytes`, of one frame at least."""
    count = frames.shape[2]
    length = max(1, min(count, chunk_bytes * count // (frames.numel() * frames.element_size())))
    return HeldMap(frames, tuple(min(length, count - start) for start in range(0, count, length)))


def through_resnet(block: ResnetBlock, source: FrameMap, chunk_bytes: int) -> HeldMap:
    """A resnet; its inner map is overwritten, chunk by chunk, with its output."""
    inner = _collected(convolved(block.conv1, normed(block.norm1, source)), source.lengths)
    branch = convolved(block.conv2, normed(block.norm2, inner))
    for target, shortcut, addition in zip(inner.chunks(), source.chunks(), branch, strict=True):
        carried = shortcut if block.conv_shortcut is None else block.conv_shortcut(shortcut)
        torch.add(carried, addition, out=target)
    return held(inner.frames, chunk_bytes)


def convolved(conv: CausalConv3d, chunks: Iterator[Tensor]) -> Iterator[Tensor]:
    """A causal convolution over chunks: each sees the last frames of the one before."""
    side, back = conv.padding[0], conv.padding[4]
    context: Tensor | None = None
    for chunk in chunks:
        if context is None:
            context = chunk[:, :, :1].expand(-1, -1, back, -1, -1)
        extended = torch.cat([context, chunk], dim=2) if back else chunk
        context = extended[:, :, extended.shape[2] - back :].clone()
        if side:
            extended = F.pad(extended, (side, side, side, side, 0, 0), mode="replicate")
        yield conv.conv(extended)


def normed(norm: nn.GroupNorm, source: FrameMap) -> Iterator[Tensor]:
    """SiLU(GroupNorm(map)) in chunks; the statistics span all frames and are fp32, as the norm's own are."""
    mean, variance = _group_statistics(norm.num_groups, source)
    scale, shift = ops.scale_shift(mean, variance, norm.weight, norm.bias, norm.eps)
    for chunk in source.chunks():
        yield ops.scale_shift_silu(chunk, scale, shift)


def _group_statistics(groups: int, source: FrameMap) -> tuple[Tensor, Tensor]:
    """Mean and variance of each group [B, G], merged from chunk to chunk (Chan et al. 1979)."""
    count, mean, squares = 0, torch.zeros(()), torch.zeros(())
    for chunk in source.chunks():
        part_mean, part_variance = ops.group_moments(chunk, groups)
        part = chunk[0].numel() // groups
        total = count + part
        if count == 0:
            mean, squares = part_mean, part_variance * part
        else:
            difference = part_mean - mean
            mean = mean + difference * (part / total)
            squares = squares + part_variance * part + difference.square() * (count * part / total)
        count = total
    return mean, squares / count


def _collected(chunks: Iterator[Tensor], lengths: tuple[int, ...]) -> HeldMap:
    """The chunks written into one map as they come: never two copies."""
    frames: Tensor | None = None
    start = 0
    for chunk in chunks:
        if frames is None:
            frames = chunk.new_empty(*chunk.shape[:2], sum(lengths), *chunk.shape[3:])
        frames[:, :, start : start + chunk.shape[2]] = chunk
        start += chunk.shape[2]
    assert frames is not None
    return HeldMap(frames, lengths)
