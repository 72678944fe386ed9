"""Products of 8-bit codes: int8 summed in int32, e4m3 in fp32, one scale a token and one a weight row.

A tile is finished in registers: scales, bias, GELU or gated residual, one rounding to the output's dtype.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from .capability import capability_of
from .launch import CompileCase
from .mm_output import MmOutput
from .mm_tiles import store_tile, tile_of
from .rows import compile_case
from .tuning import launch_for


@triton.jit
def _scaled_mm_kernel(
    x, weight, out, x_scale, weight_scale, bias, gate, rows, columns, depth, x_row, weight_row,
    tokens, out_batch, out_token, gate_batch,
    HAS_BIAS: tl.constexpr, EPILOGUE: tl.constexpr, EVEN: tl.constexpr,
    BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, GROUP: tl.constexpr, PIECES: tl.constexpr,
):  # fmt: skip
    """One program, one tile [BM, BN]. Rows past the end read row 0 and are not stored. EVEN: BK divides the depth."""
    tile_row, tile_column = tile_of(tl.program_id(0), rows, columns, BM, BN, GROUP)
    row = tile_row * BM + tl.arange(0, BM)
    column = tile_column * BN + tl.arange(0, BN)
    at = tl.arange(0, BK)
    safe_row = tl.where(row < rows, row, 0)
    safe_column = tl.where(column < columns, column, 0)
    x_at = x + safe_row.to(tl.int64)[:, None] * x_row + at[None, :]
    weight_at = weight + safe_column.to(tl.int64)[None, :] * weight_row + at[:, None]
    ACC: tl.constexpr = tl.int32 if x.dtype.element_ty == tl.int8 else tl.float32
    total = tl.zeros([BM, BN], ACC)
    for k in range(0, depth, BK):
        if EVEN:
            a, b = tl.load(x_at), tl.load(weight_at)
        else:
            a = tl.load(x_at, mask=(at < depth - k)[None, :], other=0.0)
            b = tl.load(weight_at, mask=(at < depth - k)[:, None], other=0.0)
        total = tl.dot(a, b, total, out_dtype=ACC)
        x_at += BK
        weight_at += BK
    store_tile(
        total, out, x_scale, weight_scale, bias, gate, tile_row, tile_column * BN, rows, columns, tokens, out_batch,
        out_token, gate_batch, True, HAS_BIAS, EPILOGUE, BM, BN, PIECES,
    )  # fmt: skip


def scaled_mm(
    x: Tensor, x_scale: Tensor, weight: Tensor, weight_scale: Tensor, bias: Tensor | None, output: MmOutput
) -> None:
    """x @ weight.T of codes into `output`. x [M, K], x_scale [M], weight [N, K], weight_scale [N], bias [N]."""
    name = "int8_mm" if x.dtype == torch.int8 else "fp8_mm"
    launch = launch_for(name, capability_of(x.device))
    (rows, depth), columns = x.shape, weight.shape[0]
    _scaled_mm_kernel[output.grid(columns, launch)](
        x, weight, output.rows.tensor, x_scale, weight_scale, bias, output.gate,
        rows, columns, depth, x.stride(0), weight.stride(0), *output.strides,
        HAS_BIAS=bias is not None, EPILOGUE=output.epilogue, EVEN=depth % launch.tiles["BK"] == 0,
        **launch.tiles, num_warps=launch.num_warps, num_stages=launch.num_stages,
    )  # fmt: skip


def compile_cases(capability: int) -> list[CompileCase]:
    """Both kinds of codes with each epilogue; fp8 where the tensor cores have it."""
    return [
        _case(capability, name, dtype, epilogue)
        for name, dtype in (("int8_mm", torch.int8), ("fp8_mm", torch.float8_e4m3fn))[: 2 if capability >= 89 else 1]
        for epilogue in ("none", "gelu", "residual")
    ]


def _case(capability: int, name: str, dtype: torch.dtype, epilogue: str) -> CompileCase:
    launch = launch_for(name, capability)
    wide = dict.fromkeys(("x_scale", "weight_scale"), torch.float32)
    narrow = dict.fromkeys(("out", "bias", "gate"), torch.bfloat16)
    return compile_case(
        _scaled_mm_kernel,
        name if epilogue == "none" else f"{name} {epilogue}",
        capability,
        launch,
        {"x": dtype, "weight": dtype, **wide, **narrow},
        tensor_core="s8.s8" if dtype == torch.int8 else "e4m3.e4m3",
        loop_flops=2 * launch.tiles["BM"] * launch.tiles["BN"] * launch.tiles["BK"],
        unaligned=("rows", "tokens"),
        HAS_BIAS=True,
        EPILOGUE=epilogue,
        EVEN=True,
    )
