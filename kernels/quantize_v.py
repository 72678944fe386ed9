"""V as the attention kernel reads it: less its mean, scaled channel by channel, e4m3 in [D, keys] or fp16 in [keys, D].

Scales are powers of two. So a span's codes can be brought to the scale of the whole sequence afterwards by another
power of two, which changes no mantissa (only what falls below the smallest normal code is rounded a second time): V is
quantized span by span, and every span's product is computed once.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from .attention_variant import KEY_BLOCK, VARIANTS, AttentionVariant
from .capability import capability_of
from .codes import magnitude_bits
from .key_layout import BlockPlace
from .launch import CompileCase, Launch
from .rows import POINTERS
from .tuning import launch_for


@triton.jit
def _quantize_v_kernel(
    v, mean, out, scale, tokens, heads, first_block, tail_block,
    v_batch, v_token, v_head, out_batch, out_head, out_row,
    LIMIT: tl.constexpr, TRANSPOSED: tl.constexpr, D: tl.constexpr, WIDTH: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """One program: WIDTH channels of one head of one sample, all tokens, twice: the largest, then the codes."""
    both = tl.program_id(1)
    sample, head = (both // heads).to(tl.int64), (both % heads).to(tl.int64)
    inner, channel = tl.arange(0, BLOCK), tl.program_id(0) * WIDTH + tl.arange(0, WIDTH)
    column = both.to(tl.int64) * D + channel
    v += sample * v_batch + head * v_head
    out += sample * out_batch + head * out_head
    centre = tl.load(mean + column)

    largest = tl.zeros([BLOCK, WIDTH], tl.int32)
    for start in range(0, tokens, BLOCK):
        token = start + inner
        at = v + token.to(tl.int64)[:, None] * v_token + channel[None, :]
        value = tl.load(at, mask=(token < tokens)[:, None], other=0.0).to(tl.float32) - centre[None, :]
        largest = tl.maximum(largest, tl.where((token < tokens)[:, None], magnitude_bits(value), 0))
    wanted = tl.max(largest, 0).to(tl.float32, bitcast=True) / LIMIT
    power = ((wanted.to(tl.int32, bitcast=True) + 0x7FFFFF) & 0x7F800000).to(tl.float32, bitcast=True)
    power = tl.where(wanted < 1e-30, 1.0, power)  # NaN and infinity go on
    tl.store(scale + column, power)

    inverse = 1.0 / power
    for start in range(0, tokens, BLOCK):
        token = start + inner
        at = v + token.to(tl.int64)[:, None] * v_token + channel[None, :]
        value = tl.load(at, mask=(token < tokens)[:, None], other=0.0).to(tl.float32) - centre[None, :]
        value = tl.where((token < tokens)[:, None], value * inverse[None, :], 0.0)
        block = tl.where(start + BLOCK <= tokens, first_block + start // BLOCK, tail_block)
        row = (block * BLOCK + inner).to(tl.int64)
        if TRANSPOSED:
            to = out + channel.to(tl.int64)[None, :] * out_row + row[:, None]
        else:
            to = out + row[:, None] * out_row + channel[None, :]
        tl.store(to, value.to(out.dtype.element_ty))


@triton.jit
def _align_v_kernel(
    v, factor, heads, first_block, tail_block, full, v_batch, v_head, v_row,
    TRANSPOSED: tl.constexpr, D: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """One program: one block of 64 keys of one head, in place, times a power of two a channel; 1 touches nothing."""
    part, both = tl.program_id(0), tl.program_id(1)
    sample, head = (both // heads).to(tl.int64), (both % heads).to(tl.int64)
    channel = tl.arange(0, D)
    by = tl.load(factor + both.to(tl.int64) * D + channel)[None, :]
    block = tl.where(part < full, first_block + part, tail_block)
    row = (block * BLOCK + tl.arange(0, BLOCK)).to(tl.int64)
    v += sample * v_batch + head * v_head
    if TRANSPOSED:
        at = v + channel.to(tl.int64)[None, :] * v_row + row[:, None]
    else:
        at = v + row[:, None] * v_row + channel[None, :]
    some = tl.broadcast_to(by != 1.0, [BLOCK, D])
    value = tl.load(at, mask=some, other=0.0).to(tl.float32) * by
    tl.store(at, value.to(v.dtype.element_ty), mask=some)


def quantize_values_(out: Tensor, v: Tensor, mean: Tensor, place: BlockPlace, variant: AttentionVariant) -> Tensor:
    """See `quantized_attention.quantize_values_`: writes a span, returns its scales [B, H, D]."""
    v = v if v.stride(-1) == 1 else v.contiguous()
    batch, tokens, heads, dim = v.shape
    scale = torch.empty(batch, heads, dim, dtype=torch.float32, device=v.device)
    launch = launch_for("quantize_v", capability_of(v.device))
    _quantize_v_kernel[(dim // launch.tiles["WIDTH"], batch * heads)](
        v, mean, out, scale, tokens, heads, place.first, place.tail,
        v.stride(0), v.stride(1), v.stride(2), *out.stride()[:3],
        LIMIT=variant.v_limit, TRANSPOSED=variant.is_transposed, D=dim,
        **launch.tiles, num_warps=launch.num_warps, num_stages=launch.num_stages,
    )  # fmt: skip
    return scale


def align_values_(v: Tensor, factor: Tensor, place: BlockPlace, tokens: int, variant: AttentionVariant) -> None:
    """See `quantized_attention.align_values_`: one span, times `factor` [B, H, D]."""
    batch, heads = v.shape[:2]
    launch = launch_for("align_v", capability_of(v.device))
    full = tokens // KEY_BLOCK
    _align_v_kernel[(triton.cdiv(tokens, KEY_BLOCK), batch * heads)](
        v, factor, heads, place.first, place.tail, full, *v.stride()[:3],
        TRANSPOSED=variant.is_transposed, D=factor.shape[-1],
        **launch.tiles, num_warps=launch.num_warps, num_stages=launch.num_stages,
    )  # fmt: skip


def compile_cases(capability: int) -> list[CompileCase]:
    """Both kinds of codes that the card has, at heads of 128."""
    able = [each for each in VARIANTS.values() if each.is_quantized and capability >= each.least_capability]
    kinds = {each.v_dtype: each for each in able}
    return [case for each in kinds.values() for case in _cases(capability, each)]


def _cases(capability: int, variant: AttentionVariant) -> list[CompileCase]:
    written = launch_for("quantize_v", capability)
    aligned = launch_for("align_v", capability)
    code = POINTERS[variant.v_dtype or torch.float16]
    fixed = {"TRANSPOSED": variant.is_transposed, "D": 128}
    quantize = {"v": "*bf16", "mean": "*fp32", "out": code, "scale": "*fp32"}
    align = {"v": code, "factor": "*fp32"}
    kind = "e4m3" if variant.is_transposed else "fp16"
    return [
        _case(
            f"quantize_v {kind}", _quantize_v_kernel, capability, written, quantize,
            {**fixed, "LIMIT": variant.v_limit},
        ),
        _case(f"align_v {kind}", _align_v_kernel, capability, aligned, align, fixed),
    ]  # fmt: skip


def _case(
    name: str, kernel: Any, capability: int, launch: Launch, types: dict[str, str], fixed: Mapping[str, object]
) -> CompileCase:
    values = {**fixed, **launch.tiles}
    kinds = {**types, **dict.fromkeys(values, "constexpr")}
    return CompileCase(
        name=name,
        kernel=kernel,
        capability=capability,
        signature={each: kinds.get(each, "i32") for each in kernel.arg_names},
        constexprs=values,
        launch=launch,
        unaligned=("tokens", "heads", "first_block", "tail_block", "full"),
    )
