"""GroupNorm + SiLU of the VAE: one pass that measures channels, one that scales, shifts and bends them.

x is [B, C, ...] whose inner positions are contiguous: a whole map, or a chunk of its frames, where channels lie apart.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from .capability import capability_of
from .launch import CompileCase
from .rows import compile_case
from .tuning import launch_for

MAX_SPLITS = 64  # pieces of a channel that are measured apart, so that few channels still fill the card


@triton.jit
def _channel_moments_kernel(
    x, moments, channels, inner, x_batch, x_channel, blocks,
    SPLITS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Count, mean and sum of squared distances of one piece (`blocks` blocks) of one channel.

    Values are taken relative to the mean of the first block: sums of squares do not cancel where the mean is large.
    """
    row = tl.program_id(0).to(tl.int64)
    first = tl.program_id(1).to(tl.int64) * blocks * BLOCK
    x += row // channels * x_batch + row % channels * x_channel + first
    left = tl.minimum(inner - first, blocks * BLOCK)
    at = tl.arange(0, BLOCK)
    pivot = tl.sum(tl.load(x + at, mask=at < left, other=0.0).to(tl.float32), 0) / tl.minimum(left, BLOCK)
    sums, squares = tl.zeros([BLOCK], tl.float32), tl.zeros([BLOCK], tl.float32)
    for start in range(0, left, BLOCK):
        inside = start + at < left
        distance = tl.where(inside, tl.load(x + start + at, mask=inside, other=0.0).to(tl.float32) - pivot, 0.0)
        sums += distance
        squares += distance * distance
    count = left.to(tl.float32)
    total = tl.sum(sums, 0)
    found = moments + (row * SPLITS + tl.program_id(1)) * 3
    tl.store(found, count)
    tl.store(found + 1, pivot + total / count)
    tl.store(found + 2, tl.maximum(tl.sum(squares, 0) - total * (total / count), 0.0))


@triton.jit
def _scale_shift_silu_kernel(
    x, scale, shift, out, channels, inner, x_batch, x_channel, out_batch, out_channel, BLOCK: tl.constexpr
):
    """One program, BLOCK positions of one channel."""
    row = tl.program_id(0).to(tl.int64)
    at = tl.program_id(1).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    sample, channel = row // channels, row % channels
    value = tl.load(x + sample * x_batch + channel * x_channel + at, mask=at < inner).to(tl.float32)
    value = value * tl.load(scale + row) + tl.load(shift + row)
    value = value / (1.0 + tl.exp(-value))
    target = out + sample * out_batch + channel * out_channel + at
    tl.store(target, value.to(out.dtype.element_ty), mask=at < inner)


def group_moments(x: Tensor, groups: int) -> tuple[Tensor, Tensor]:
    """See `ops.group_moments`."""
    launch = launch_for("group_norm", capability_of(x.device))
    x = _inner_contiguous(x)
    batch, channels, inner = x.shape[0], x.shape[1], x[0, 0].numel()
    blocks = triton.cdiv(inner, launch.tiles["BLOCK"])
    per_split = triton.cdiv(blocks, min(MAX_SPLITS, blocks))
    splits = triton.cdiv(blocks, per_split)
    moments = torch.empty(batch, channels, splits, 3, dtype=torch.float32, device=x.device)
    _channel_moments_kernel[(batch * channels, splits)](
        x, moments, channels, inner, x.stride(0), x.stride(1), per_split,
        SPLITS=splits, **launch.tiles, num_warps=launch.num_warps, num_stages=launch.num_stages,
    )  # fmt: skip
    return _merged(moments.view(batch, groups, -1, 3))


def _merged(moments: Tensor) -> tuple[Tensor, Tensor]:
    """[B, G, pieces, (count, mean, squares)] -> mean and variance [B, G]."""
    count, mean, squares = moments.unbind(-1)
    total = count.sum(dim=-1)
    middle = (count * mean).sum(dim=-1) / total
    spread = squares.sum(dim=-1) + (count * (mean - middle[..., None]).square()).sum(dim=-1)
    return middle, spread / total


def scale_shift_silu(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """See `ops.scale_shift_silu`."""
    launch = launch_for("group_norm", capability_of(x.device))
    x = _inner_contiguous(x)
    out = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    batch, channels, inner = x.shape[0], x.shape[1], x[0, 0].numel()
    _scale_shift_silu_kernel[(batch * channels, triton.cdiv(inner, launch.tiles["BLOCK"]))](
        x, scale.contiguous(), shift.contiguous(), out, channels, inner,
        x.stride(0), x.stride(1), out.stride(0), out.stride(1),
        **launch.tiles, num_warps=launch.num_warps, num_stages=launch.num_stages,
    )  # fmt: skip
    return out


def _inner_contiguous(x: Tensor) -> Tensor:
    """x where the positions of a channel follow each other, else a copy."""
    return x if x[0, 0].is_contiguous() else x.contiguous()


def compile_cases(capability: int) -> list[CompileCase]:
    """fp16, as the VAE runs on a card."""
    launch = launch_for("group_norm", capability)
    wide = dict.fromkeys(("moments", "scale", "shift"), torch.float32)
    pointers = {**dict.fromkeys(("x", "out"), torch.float16), **wide}
    odd = ("channels", "blocks")
    return [
        compile_case(
            _channel_moments_kernel, "group_moments", capability, launch, pointers, unaligned=odd, SPLITS=MAX_SPLITS
        ),
        compile_case(_scale_shift_silu_kernel, "scale_shift_silu", capability, launch, pointers, unaligned=odd),
    ]
