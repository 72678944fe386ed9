"""Full attention over video and text tokens, one block of queries a program: FlashAttention-2 with 8-bit products.

Dao 2023 (online softmax), SageAttention and SageAttention2++ (int8 Q and K, V in 8 bits with an fp16 sum). Ours: a Q
scale for each row and a K scale for each block of 64 keys fold into the FMA in front of exp2, at no instruction; P is
made 448 times as large by the same FMA; only the one or two last blocks of keys are masked, outside of the main loop.
Where registers allow it, a round takes two blocks of keys (PAIRED): the sums so far are rescaled half as often.
The fp8 sum of a round is added to them in fp32, as the fp16 sum is: tensor cores keep 13 bits of an fp8 sum and cut off
the rest, which over 118,800 keys comes to percents (SageAttention2; DeepSeek-V3 for Hopper).
"""

from __future__ import annotations

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..errors import ConfigError
from .attention_variant import HEAD_DIMS, KEY_BLOCK, SIXTEEN_BIT, VARIANTS, AttentionVariant
from .capability import capability_of
from .key_layout import KeyBlocks, KeyLayout
from .launch import CompileCase, Launch
from .tuning import launch_for

LOG2_E = math.log2(math.e)


@triton.jit
def _attend_block(
    q, row_factor, acc, row_max, row_sum, k_at, v_at, k_scale, valid,
    QUANTIZED: tl.constexpr, PRODUCT: tl.constexpr, MASKED: tl.constexpr, LOG2_P: tl.constexpr, BN: tl.constexpr,
):  # fmt: skip
    """64 keys more: new (acc, row_max, row_sum). `row_sum` carries P's factor 2**LOG2_P as acc does.

    k_at [D, BN] and v_at [BN, D] are pointers. MASKED: only `valid` keys are there; of 16-bit K and V what lies behind
    them is not read, and in 8 bits it is zeros (masks there would split the loads and spill registers).
    """
    inside = tl.arange(0, BN) < valid
    if MASKED and not QUANTIZED:  # noqa: SIM108  # Triton decides an `if` when it compiles
        k = tl.load(k_at, mask=inside[None, :], other=0)
    else:
        k = tl.load(k_at)
    if QUANTIZED:
        logits = tl.dot(q, k).to(tl.float32)
        factor = row_factor * tl.load(k_scale)
    else:
        logits = tl.dot(q, k)
        factor = row_factor
    if MASKED:
        logits = tl.where(inside[None, :], logits, -float("inf"))
    new_max = tl.maximum(row_max, tl.max(logits, 1) * factor)
    p = tl.math.exp2(logits * factor[:, None] - (new_max - LOG2_P)[:, None])
    shrink = tl.math.exp2(row_max - new_max)
    row_sum = row_sum * shrink + tl.sum(p, 1)
    if MASKED and not QUANTIZED:  # noqa: SIM108
        v = tl.load(v_at, mask=inside[:, None], other=0.0)
    else:
        v = tl.load(v_at)
    if PRODUCT == "16-bit":
        acc = tl.dot(p.to(v.dtype), v, acc * shrink[:, None])
    elif PRODUCT == "fp8":
        acc = acc * shrink[:, None] + tl.dot(p.to(v.dtype), v)
    else:
        acc = acc * shrink[:, None] + tl.dot(p.to(v.dtype), v, out_dtype=tl.float16)
    return acc, new_max, row_sum


@triton.jit
def _attend_pair(
    q, row_factor, acc, row_max, row_sum, k_first, v_first, scale_first, k_second, v_second, scale_second,
    QUANTIZED: tl.constexpr, PRODUCT: tl.constexpr, LOG2_P: tl.constexpr,
):  # fmt: skip
    """Two full blocks of keys at once: the sums so far are rescaled, and an fp16 sum is added, half as often."""
    first = tl.dot(q, tl.load(k_first)).to(tl.float32)
    second = tl.dot(q, tl.load(k_second)).to(tl.float32)
    if QUANTIZED:
        first_factor, second_factor = row_factor * tl.load(scale_first), row_factor * tl.load(scale_second)
    else:
        first_factor, second_factor = row_factor, row_factor
    new_max = tl.maximum(tl.max(first, 1) * first_factor, tl.max(second, 1) * second_factor)
    new_max = tl.maximum(row_max, new_max)
    level = new_max - LOG2_P
    p_first = tl.math.exp2(first * first_factor[:, None] - level[:, None])
    p_second = tl.math.exp2(second * second_factor[:, None] - level[:, None])
    shrink = tl.math.exp2(row_max - new_max)
    row_sum = row_sum * shrink + (tl.sum(p_first, 1) + tl.sum(p_second, 1))
    v_one, v_two = tl.load(v_first), tl.load(v_second)
    if PRODUCT == "16-bit":
        acc = tl.dot(p_first.to(v_one.dtype), v_one, acc * shrink[:, None])
        acc = tl.dot(p_second.to(v_two.dtype), v_two, acc)
    elif PRODUCT == "fp8":
        part = tl.dot(p_first.to(v_one.dtype), v_one)
        part = tl.dot(p_second.to(v_two.dtype), v_two, part)
        acc = acc * shrink[:, None] + part
    else:
        part = tl.dot(p_first.to(v_one.dtype), v_one, out_dtype=tl.float16)
        part = tl.dot(p_second.to(v_two.dtype), v_two, part, out_dtype=tl.float16)
        acc = acc * shrink[:, None] + part.to(tl.float32)
    return acc, new_max, row_sum


@triton.jit
def _joint_attention_kernel(  # noqa: C901  # most branches are decided when Triton compiles
    q, k, v, out, q_scale, k_scale, v_scale, v_mean, block_ids, block_counts,
    rows, heads, full_blocks, first_tail, second_tail, k_blocks, listed,
    q_batch, q_head, q_row, k_batch, k_head, k_row, v_batch, v_head, v_row, out_batch, out_head, out_row,
    softmax_factor,
    QUANTIZED: tl.constexpr, TRANSPOSED: tl.constexpr, PRODUCT: tl.constexpr, LOG2_P: tl.constexpr,
    SPARSE: tl.constexpr, D: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, PAIRED: tl.constexpr,
):  # fmt: skip
    """One program: BM rows of one head of one sample. Programs of one head run side by side, so its K and V stay in L2.

    `first_tail`, `second_tail`: valid keys of the blocks behind the full ones, up to `k_blocks`. SPARSE: the
    blocks to visit are row [sample * heads + head, block of rows] of `block_ids` (`listed` long).
    """
    row_block, both = tl.program_id(0), tl.program_id(1)
    sample, head = (both // heads).to(tl.int64), (both % heads).to(tl.int64)
    row = row_block * BM + tl.arange(0, BM)
    key, channel = tl.arange(0, BN), tl.arange(0, D)
    wide_row = row.to(tl.int64)
    at = q + sample * q_batch + head * q_head + wide_row[:, None] * q_row + channel[None, :]
    queries = tl.load(at, mask=row[:, None] < rows, other=0)
    if QUANTIZED:
        row_factor = tl.load(q_scale + both.to(tl.int64) * rows + row, mask=row < rows, other=0.0)
        k_scale += both.to(tl.int64) * k_blocks
    else:
        row_factor = tl.zeros([BM], tl.float32) + softmax_factor
    if QUANTIZED:
        k_row = D
    k_start = k + sample * k_batch + head * k_head + key[None, :] * k_row + channel[:, None]
    v_start = v + sample * v_batch + head * v_head
    if TRANSPOSED:
        v_start = v_start + channel.to(tl.int64)[None, :] * v_row + key[:, None]
        v_step = BN
    elif QUANTIZED:
        v_start = v_start + key[:, None] * D + channel[None, :]
        v_step = D * BN
    else:
        v_start = v_start + key[:, None] * v_row + channel[None, :]
        v_step = v_row.to(tl.int64) * BN
    if QUANTIZED:  # noqa: SIM108
        k_step = D * BN
    else:
        k_step = k_row.to(tl.int64) * BN

    row_max = tl.full([BM], -float("inf"), tl.float32)
    row_sum = tl.zeros([BM], tl.float32)
    acc = tl.zeros([BM, D], tl.float32)
    if SPARSE:
        line = both.to(tl.int64) * tl.num_programs(0) + row_block
        block_ids += line * listed
        unmasked, visited = tl.load(block_counts + line * 2), tl.load(block_counts + line * 2 + 1)
        done = unmasked
        if PAIRED:
            done = unmasked // 2 * 2
            for index in range(0, done, 2):
                one = tl.load(block_ids + index).to(tl.int64)
                two = tl.load(block_ids + index + 1).to(tl.int64)
                acc, row_max, row_sum = _attend_pair(
                    queries, row_factor, acc, row_max, row_sum,
                    k_start + one * k_step, v_start + one * v_step, k_scale + one,
                    k_start + two * k_step, v_start + two * v_step, k_scale + two, QUANTIZED, PRODUCT, LOG2_P,
                )  # fmt: skip
        else:
            for index in range(unmasked):
                block = tl.load(block_ids + index)
                acc, row_max, row_sum = _attend_block(
                    queries, row_factor, acc, row_max, row_sum, k_start + block * k_step, v_start + block * v_step,
                    k_scale + block, BN, QUANTIZED, PRODUCT, False, LOG2_P, BN,
                )  # fmt: skip
        for index in range(done, visited):
            block = tl.load(block_ids + index)
            valid = tl.where(block < full_blocks, BN, tl.where(block == full_blocks, first_tail, second_tail))
            acc, row_max, row_sum = _attend_block(
                queries, row_factor, acc, row_max, row_sum, k_start + block * k_step, v_start + block * v_step,
                k_scale + block, valid, QUANTIZED, PRODUCT, True, LOG2_P, BN,
            )  # fmt: skip
    else:
        done = full_blocks
        if PAIRED:
            done = full_blocks // 2 * 2
            k_at, v_at, scale_at = k_start, v_start, k_scale
            for _ in range(0, done, 2):
                acc, row_max, row_sum = _attend_pair(
                    queries, row_factor, acc, row_max, row_sum, k_at, v_at, scale_at,
                    k_at + k_step, v_at + v_step, scale_at + 1, QUANTIZED, PRODUCT, LOG2_P,
                )  # fmt: skip
                k_at += 2 * k_step
                v_at += 2 * v_step
                scale_at += 2
        else:
            k_at, v_at, scale_at = k_start, v_start, k_scale
            for _ in range(full_blocks):
                acc, row_max, row_sum = _attend_block(
                    queries, row_factor, acc, row_max, row_sum, k_at, v_at, scale_at, BN,
                    QUANTIZED, PRODUCT, False, LOG2_P, BN,
                )  # fmt: skip
                k_at += k_step
                v_at += v_step
                scale_at += 1
        for block in tl.range(done, k_blocks, num_stages=1):
            valid = tl.where(block < full_blocks, BN, tl.where(block == full_blocks, first_tail, second_tail))
            acc, row_max, row_sum = _attend_block(
                queries, row_factor, acc, row_max, row_sum, k_start + block * k_step, v_start + block * v_step,
                k_scale + block, valid, QUANTIZED, PRODUCT, True, LOG2_P, BN,
            )  # fmt: skip

    some = row_sum > 0.0  # a block of queries may have been given no keys
    acc = acc * tl.where(some, 1.0 / tl.where(some, row_sum, 1.0), 0.0)[:, None]
    if QUANTIZED:
        columns = both.to(tl.int64) * D + channel
        mean = tl.load(v_mean + columns)[None, :] * tl.where(some, 1.0, 0.0)[:, None]
        acc = acc * tl.load(v_scale + columns)[None, :] + mean
    at = out + sample * out_batch + head * out_head + wide_row[:, None] * out_row + channel[None, :]
    tl.store(at, acc.to(out.dtype.element_ty), mask=row[:, None] < rows)


def joint_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """See `ops.joint_attention`: 16-bit q, k, v [B, S, H, D]."""
    q, k, v = (each if each.stride(-1) == 1 else each.contiguous() for each in (q, k, v))
    out = torch.empty(q.shape, dtype=q.dtype, device=q.device)
    strides = [each.stride(axis) for each in (q, k, v) for axis in (0, 2, 1)]
    _launch(SIXTEEN_BIT, q, k, v, out, KeyLayout((k.shape[1],)), [*strides, *_out_strides(out)], (out,) * 4)
    return out


def attend(
    codes: Tensor,
    scale: Tensor,
    k: Tensor,
    k_scale: Tensor,
    v: Tensor,
    v_scale: Tensor,
    v_mean: Tensor,
    layout: KeyLayout,
    variant: AttentionVariant,
    dtype: torch.dtype,
    blocks: KeyBlocks | None = None,
) -> Tensor:
    """See `quantized_attention.attend`."""
    batch, heads, rows, dim = codes.shape
    out = torch.empty(batch, rows, heads, dim, dtype=dtype, device=codes.device)
    strides = [each.stride(axis) for each in (codes, k, v) for axis in (0, 1, 2)]
    scales = (scale, k_scale, v_scale, v_mean)
    _launch(variant, codes, k, v, out, layout, [*strides, *_out_strides(out)], scales, blocks)
    return out


def _out_strides(out: Tensor) -> list[int]:
    return [out.stride(0), out.stride(2), out.stride(1)]


def _launch(
    variant: AttentionVariant,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    layout: KeyLayout,
    strides: list[int],
    scales: tuple[Tensor, ...],
    blocks: KeyBlocks | None = None,
) -> None:
    batch, rows, heads, dim = out.shape
    check_head_dim(dim)
    launch = launch_for(f"joint_attention {variant.name}", capability_of(out.device))
    if blocks is not None and blocks.query_block != launch.tiles["BM"]:
        raise ConfigError(
            f"lists for {blocks.query_block} rows of Q; the kernel takes {launch.tiles['BM']} at once here"
        )
    tails = (*layout.tails, 0, 0)[:2]
    ids, counts = (None, None) if blocks is None else (blocks.ids, blocks.counts)
    grid = (triton.cdiv(rows, launch.tiles["BM"]), batch * heads)
    _joint_attention_kernel[grid](
        q, k, v, out, *scales, ids, counts,
        rows, heads, layout.full_blocks, *tails, layout.blocks, 0 if blocks is None else blocks.ids.shape[-1],
        *strides, dim**-0.5 * LOG2_E,
        SPARSE=blocks is not None, D=dim, **_constants(variant), **launch.tiles,
        num_warps=launch.num_warps, num_stages=launch.num_stages,
    )  # fmt: skip


def check_head_dim(dim: int) -> None:
    """ConfigError for a head dimension that the kernel is not compiled for."""
    if dim not in HEAD_DIMS:
        known = " and ".join(map(str, HEAD_DIMS))
        raise ConfigError(f"heads of {dim}; our attention kernel takes {known}", hint="--attention sdpa takes any")


def _constants(variant: AttentionVariant) -> dict[str, object]:
    return {
        "QUANTIZED": variant.is_quantized,
        "TRANSPOSED": variant.is_transposed,
        "PRODUCT": variant.product,
        "LOG2_P": math.log2(variant.p_limit),
    }


INSTRUCTIONS = {
    "16-bit": "f32.bf16.bf16",
    "int8-fp16": "s32.s8.s8 f16.f16",
    "int8-fp8-fp16": "s32.s8.s8 f16.e4m3.e4m3",
    "int8-fp8": "s32.s8.s8 f32.e4m3.e4m3",
}


def compile_cases(capability: int) -> list[CompileCase]:
    """Each variant that the card has, for heads of 128 and 64, and one with lists of key blocks."""
    cases = []
    for variant in VARIANTS.values():
        if capability >= variant.least_capability:
            launch = launch_for(f"joint_attention {variant.name}", capability)
            cases += [_case(variant, capability, launch, dim) for dim in sorted(HEAD_DIMS, reverse=True)]
            if variant.is_quantized:
                cases.append(_case(variant, capability, launch, 128, sparse=True))
    return cases


def _case(variant: AttentionVariant, capability: int, launch: Launch, dim: int, *, sparse: bool = False) -> CompileCase:
    values = {**_constants(variant), "SPARSE": sparse, "D": dim, **launch.tiles}
    operand = "*i8" if variant.is_quantized else "*bf16"
    v_type = {torch.float8_e4m3fn: "*fp8e4nv", torch.float16: "*fp16", None: "*bf16"}[variant.v_dtype]
    scales = dict.fromkeys(("q_scale", "k_scale", "v_scale", "v_mean"), "*fp32" if variant.is_quantized else "*bf16")
    lists = dict.fromkeys(("block_ids", "block_counts"), "*i32")
    types = {"q": operand, "k": operand, "v": v_type, "out": "*bf16", "softmax_factor": "fp32", **scales, **lists}
    names = _joint_attention_kernel.arg_names
    kinds = dict.fromkeys(values, "constexpr")
    name = f"joint_attention {variant.name}" + (f" d{dim}" if dim != 128 else "") + (" sparse" if sparse else "")
    return CompileCase(
        name=name,
        kernel=_joint_attention_kernel,
        capability=capability,
        signature={each: kinds.get(each, types.get(each, "i32")) for each in names},
        constexprs=values,
        launch=launch,
        unaligned=("rows", "heads", "full_blocks", "first_tail", "second_tail", "k_blocks", "listed"),
        tensor_core=INSTRUCTIONS[variant.name],
        loop_flops=4 * launch.tiles["BM"] * KEY_BLOCK * (1 + launch.tiles["PAIRED"]) * dim,
    )
