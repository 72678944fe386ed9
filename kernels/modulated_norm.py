"""LayerNorm, shift and scale of each token in one pass, with the 8-bit codes that the next linear layer wants."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from .capability import capability_of
from .codes import encode, magnitude_bits, scale_of
from .launch import CompileCase
from .reference import LARGEST_CODE
from .rows import Rows, compile_case, contiguous_rows
from .tuning import launch_for


@triton.jit
def _modulated_norm_kernel(
    x, shift, scale, out, out_scale, tokens, columns, x_batch, x_token, shift_batch, scale_batch, eps,
    LARGEST: tl.constexpr, PARTS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """One program, one token, in PARTS pieces of BLOCK channels. LARGEST 0: `out` has x's dtype, no codes."""
    row = tl.program_id(0).to(tl.int64)
    sample, token = row // tokens, row % tokens
    at = tl.arange(0, BLOCK)
    x += sample * x_batch + token * x_token
    shift += sample * shift_batch
    scale += sample * scale_batch
    out += row * columns

    values = ()
    total = tl.zeros([BLOCK], tl.float32)
    for part in tl.static_range(PARTS):
        value = tl.load(x + part * BLOCK + at, mask=part * BLOCK + at < columns, other=0.0).to(tl.float32)
        values = values + (value,)  # noqa: RUF005  # Triton has no starred expression
        total += value
    mean = tl.sum(total, 0) / columns

    squares = tl.zeros([BLOCK], tl.float32)
    for part in tl.static_range(PARTS):
        centred = tl.where(part * BLOCK + at < columns, values[part] - mean, 0.0)
        squares += centred * centred
    rstd = tl.rsqrt(tl.sum(squares, 0) / columns + eps)

    normed = ()
    bits = tl.zeros([BLOCK], tl.int32)
    for part in tl.static_range(PARTS):
        inside = part * BLOCK + at < columns
        factor = 1.0 + tl.load(scale + part * BLOCK + at, mask=inside, other=0.0).to(tl.float32)
        addend = tl.load(shift + part * BLOCK + at, mask=inside, other=0.0).to(tl.float32)
        value = (values[part] - mean) * rstd * factor + addend
        if LARGEST == 0:
            tl.store(out + part * BLOCK + at, value.to(out.dtype.element_ty), mask=inside)
        else:
            normed = normed + (value,)  # noqa: RUF005
            bits = tl.maximum(bits, tl.where(inside, magnitude_bits(value), 0))
    if LARGEST != 0:
        row_scale = scale_of(tl.max(bits, 0), LARGEST)
        inverse = tl.div_rn(1.0, row_scale)
        for part in tl.static_range(PARTS):
            codes = encode(normed[part], inverse, LARGEST, out.dtype.element_ty)
            tl.store(out + part * BLOCK + at, codes, mask=part * BLOCK + at < columns)
        tl.store(out_scale + row, row_scale)


def modulated_norm(x: Tensor, shift: Tensor, scale: Tensor, eps: float) -> Tensor:
    """See `ops.modulated_norm`."""
    out = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    _launch(x, shift, scale, eps, out, out, 0.0)
    return out


def modulated_norm_codes(
    x: Tensor, shift: Tensor, scale: Tensor, eps: float, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """See `ops.modulated_norm_codes`."""
    codes = torch.empty(x.shape, dtype=dtype, device=x.device)
    row_scale = torch.empty(x.shape[:-1], dtype=torch.float32, device=x.device)
    _launch(x, shift, scale, eps, codes, row_scale, LARGEST_CODE[dtype])
    return codes, row_scale


def _launch(
    x: Tensor, shift: Tensor, scale: Tensor, eps: float, out: Tensor, out_scale: Tensor, largest: float
) -> None:
    launch = launch_for("modulated_norm", capability_of(x.device))
    rows = Rows.of(contiguous_rows(x))
    shift, scale = contiguous_rows(shift), contiguous_rows(scale)
    columns = x.shape[-1]
    _modulated_norm_kernel[(rows.total,)](
        rows.tensor, shift, scale, out, out_scale,
        rows.tokens, columns, rows.batch_stride, rows.token_stride, shift.stride(0), scale.stride(0), eps,
        LARGEST=largest, PARTS=triton.cdiv(columns, launch.tiles["BLOCK"]), **launch.tiles,
        num_warps=launch.num_warps, num_stages=launch.num_stages,
    )  # fmt: skip


def compile_cases(capability: int) -> list[CompileCase]:
    """At the 13B model's width: without codes, and with each kind of codes that the card's products take."""
    launch = launch_for("modulated_norm", capability)
    kinds = [torch.bfloat16, torch.int8, *([torch.float8_e4m3fn] if capability >= 89 else [])]
    return [
        compile_case(
            _modulated_norm_kernel,
            f"modulated_norm {str(dtype).removeprefix('torch.')}",
            capability,
            launch,
            {
                "x": torch.bfloat16,
                "shift": torch.bfloat16,
                "scale": torch.bfloat16,
                "out": dtype,
                "out_scale": torch.float32,
            },
            eps=True,
            LARGEST=LARGEST_CODE.get(dtype, 0.0),
            PARTS=triton.cdiv(3072, launch.tiles["BLOCK"]),
        )
        for dtype in kinds
    ]
