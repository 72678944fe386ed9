"""8-bit codes of each token with one scale a token, in one pass; its last channels may go through a GELU first."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from .capability import capability_of
from .codes import encode, gelu_tanh, magnitude_bits, scale_of
from .launch import CompileCase
from .reference import LARGEST_CODE
from .rows import Rows, compile_case, contiguous_rows
from .tuning import launch_for


@triton.jit
def _quantize_tokens_kernel(
    x, codes, codes_scale, tokens, columns, x_batch, x_token, codes_batch, codes_token,
    LARGEST: tl.constexpr, GELU_FROM: tl.constexpr, PARTS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """One program, one token, in PARTS pieces of BLOCK channels, which stay in registers until the scale is known.

    So the codes may lie in the memory of x: the scale needs every value before the first code is stored.
    """
    row = tl.program_id(0).to(tl.int64)
    x += row // tokens * x_batch + row % tokens * x_token
    codes += row // tokens * codes_batch + row % tokens * codes_token
    at = tl.arange(0, BLOCK)
    values = ()
    bits = tl.zeros([BLOCK], tl.int32)
    for part in tl.static_range(PARTS):
        value = tl.load(x + part * BLOCK + at, mask=part * BLOCK + at < columns, other=0.0).to(tl.float32)
        if part * BLOCK >= GELU_FROM:
            value = gelu_tanh(value)
        elif (part + 1) * BLOCK > GELU_FROM:
            value = tl.where(part * BLOCK + at >= GELU_FROM, gelu_tanh(value), value)
        values = values + (value,)  # noqa: RUF005  # Triton has no starred expression
        bits = tl.maximum(bits, magnitude_bits(value))
    row_scale = scale_of(tl.max(bits, 0), LARGEST)
    inverse = tl.div_rn(1.0, row_scale)
    for part in tl.static_range(PARTS):
        found = encode(values[part], inverse, LARGEST, codes.dtype.element_ty)
        tl.store(codes + part * BLOCK + at, found, mask=part * BLOCK + at < columns)
    tl.store(codes_scale + row, row_scale)


def quantize_tokens(x: Tensor, dtype: torch.dtype, gelu_from: int | None = None) -> tuple[Tensor, Tensor]:
    """See `ops.quantize_tokens` and `ops.gelu_codes_`; `gelu_from` None: no channel goes through the GELU."""
    codes = torch.empty(x.shape, dtype=dtype, device=x.device)
    return codes, _launch(contiguous_rows(x), codes, gelu_from)


def gelu_codes_(x: Tensor, dtype: torch.dtype, gelu_from: int) -> Tensor:
    """The codes go into the first bytes of each of x's rows; returns their scale."""
    return _launch(x, x.view(dtype).narrow(-1, 0, x.shape[-1]), gelu_from)


def _launch(x: Tensor, codes: Tensor, gelu_from: int | None) -> Tensor:
    launch = launch_for("quantize_tokens", capability_of(x.device))
    rows, target, columns = Rows.of(x), Rows.of(codes), x.shape[-1]
    codes_scale = torch.empty(x.shape[:-1], dtype=torch.float32, device=x.device)
    parts = triton.cdiv(columns, launch.tiles["BLOCK"])
    _quantize_tokens_kernel[(rows.total,)](
        rows.tensor, target.tensor, codes_scale, rows.tokens, columns,
        rows.batch_stride, rows.token_stride, target.batch_stride, target.token_stride,
        LARGEST=LARGEST_CODE[codes.dtype],
        GELU_FROM=parts * launch.tiles["BLOCK"] if gelu_from is None else gelu_from,
        PARTS=parts, **launch.tiles, num_warps=launch.num_warps, num_stages=launch.num_stages,
    )  # fmt: skip
    return codes_scale


def compile_cases(capability: int) -> list[CompileCase]:
    """The inputs of the 13B model's proj (3072), fc2 (12288) and linear2 (3072 + 12288)."""
    launch = launch_for("quantize_tokens", capability)
    block = launch.tiles["BLOCK"]
    return [
        compile_case(
            _quantize_tokens_kernel,
            f"{name} {str(dtype).removeprefix('torch.')}",
            capability,
            launch,
            {"x": torch.bfloat16, "codes": dtype, "codes_scale": torch.float32},
            LARGEST=LARGEST_CODE[dtype],
            GELU_FROM=gelu_from,
            PARTS=triton.cdiv(columns, block),
        )
        for dtype in (torch.int8, torch.float8_e4m3fn)[: 2 if capability >= 89 else 1]
        for name, columns, gelu_from in (
            ("quantize_tokens 3072", 3072, 3 * block),
            ("gelu_codes 12288", 12288, 0),
            ("gelu_codes 15360", 15360, 3072),
        )
    ]
