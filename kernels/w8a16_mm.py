"""16-bit activations times 8-bit weights, decoded in the kernel: what a card without fp8 does with an fp8 folder.

The codes are exact in bf16 and fp16, so the weight's scale is applied once, in fp32, behind the sum.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from .capability import capability_of
from .codes import decode_e4m3
from .launch import CompileCase
from .mm_output import MmOutput
from .mm_tiles import store_tile, tile_of
from .rows import compile_case
from .tuning import launch_for


@triton.jit
def _w8a16_mm_kernel(
    x, weight, out, weight_scale, bias, gate, rows, columns, depth, x_row, weight_row,
    tokens, out_batch, out_token, gate_batch,
    HAS_BIAS: tl.constexpr, EPILOGUE: tl.constexpr, EVEN: tl.constexpr,
    BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, GROUP: tl.constexpr, PIECES: tl.constexpr,
):  # fmt: skip
    """One program, one tile [BM, BN]. e4m3 codes come as uint8, which every card can load."""
    tile_row, tile_column = tile_of(tl.program_id(0), rows, columns, BM, BN, GROUP)
    row = tile_row * BM + tl.arange(0, BM)
    column = tile_column * BN + tl.arange(0, BN)
    at = tl.arange(0, BK)
    safe_row = tl.where(row < rows, row, 0)
    safe_column = tl.where(column < columns, column, 0)
    x_at = x + safe_row.to(tl.int64)[:, None] * x_row + at[None, :]
    weight_at = weight + safe_column.to(tl.int64)[None, :] * weight_row + at[:, None]
    total = tl.zeros([BM, BN], tl.float32)
    for k in range(0, depth, BK):
        if EVEN:
            a, codes = tl.load(x_at), tl.load(weight_at)
        else:
            a = tl.load(x_at, mask=(at < depth - k)[None, :], other=0.0)
            codes = tl.load(weight_at, mask=(at < depth - k)[:, None], other=0)
        if weight.dtype.element_ty == tl.int8:
            total = tl.dot(a, codes.to(a.dtype), total)
        else:
            total = tl.dot(a, decode_e4m3(codes, a.dtype), total)
        x_at += BK
        weight_at += BK
    store_tile(
        total, out, weight_scale, weight_scale, bias, gate, tile_row, tile_column * BN, rows, columns, tokens,
        out_batch, out_token, gate_batch, False, HAS_BIAS, EPILOGUE, BM, BN, PIECES,
    )  # fmt: skip


def w8a16_mm(x: Tensor, weight: Tensor, weight_scale: Tensor, bias: Tensor | None, output: MmOutput) -> None:
    """x @ weight.T into `output`. x [M, K] bf16 or fp16, weight [N, K] int8 or e4m3fn, its scale [N], bias [N]."""
    launch = launch_for("w8a16_mm", capability_of(x.device))
    (rows, depth), columns = x.shape, weight.shape[0]
    codes = weight if weight.dtype == torch.int8 else weight.view(torch.uint8)
    _w8a16_mm_kernel[output.grid(columns, launch)](
        x, codes, output.rows.tensor, weight_scale, bias, output.gate,
        rows, columns, depth, x.stride(0), weight.stride(0), *output.strides,
        HAS_BIAS=bias is not None, EPILOGUE=output.epilogue, EVEN=depth % launch.tiles["BK"] == 0,
        **launch.tiles, num_warps=launch.num_warps, num_stages=launch.num_stages,
    )  # fmt: skip


def compile_cases(capability: int) -> list[CompileCase]:
    """Both kinds of codes with bf16 activations, and e4m3 with fp16."""
    return [
        _case(capability, "w8a16_mm int8 bf16", torch.int8, torch.bfloat16),
        _case(capability, "w8a16_mm e4m3 bf16", torch.uint8, torch.bfloat16),
        _case(capability, "w8a16_mm e4m3 fp16", torch.uint8, torch.float16),
    ]


def _case(capability: int, name: str, codes: torch.dtype, dtype: torch.dtype) -> CompileCase:
    launch = launch_for("w8a16_mm", capability)
    return compile_case(
        _w8a16_mm_kernel,
        name,
        capability,
        launch,
        {"weight": codes, "weight_scale": torch.float32, **dict.fromkeys(("x", "out", "bias", "gate"), dtype)},
        tensor_core="bf16.bf16" if dtype == torch.bfloat16 else "f16.f16",
        loop_flops=2 * launch.tiles["BM"] * launch.tiles["BN"] * launch.tiles["BK"],
        unaligned=("rows", "tokens"),
        HAS_BIAS=True,
        EPILOGUE="none",
        EVEN=True,
    )
