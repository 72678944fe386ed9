"""GELU in its tanh form, element by element, into a new tensor or in place."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from .capability import capability_of
from .codes import gelu_tanh as _gelu_tanh
from .launch import CompileCase
from .rows import Rows, compile_case
from .tuning import launch_for


@triton.jit
def _gelu_tanh_kernel(
    x, out, tokens, columns, x_batch, x_token, out_batch, out_token, PARTS: tl.constexpr, BLOCK: tl.constexpr
):
    """One program, one piece of BLOCK channels of one token; PARTS pieces are a token."""
    program = tl.program_id(0).to(tl.int64)
    row, at = program // PARTS, program % PARTS * BLOCK + tl.arange(0, BLOCK)
    sample, token = row // tokens, row % tokens
    value = tl.load(x + sample * x_batch + token * x_token + at, mask=at < columns).to(tl.float32)
    result = _gelu_tanh(value).to(out.dtype.element_ty)
    tl.store(out + sample * out_batch + token * out_token + at, result, mask=at < columns)


def gelu_tanh(x: Tensor) -> Tensor:
    """See `ops.gelu_tanh`."""
    out = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    _launch(x if x.stride(-1) == 1 else x.contiguous(), out)
    return out


def gelu_tanh_(x: Tensor) -> None:
    """See `ops.gelu_tanh_`."""
    _launch(x, x)


def _launch(x: Tensor, out: Tensor) -> None:
    launch = launch_for("gelu_tanh", capability_of(x.device))
    source, target, columns = Rows.of(x), Rows.of(out), x.shape[-1]
    parts = triton.cdiv(columns, launch.tiles["BLOCK"])
    _gelu_tanh_kernel[(source.total * parts,)](
        source.tensor, target.tensor, source.tokens, columns,
        source.batch_stride, source.token_stride, target.batch_stride, target.token_stride,
        PARTS=parts, **launch.tiles, num_warps=launch.num_warps, num_stages=launch.num_stages,
    )  # fmt: skip


def compile_cases(capability: int) -> list[CompileCase]:
    """At the 13B model's inner width."""
    launch = launch_for("gelu_tanh", capability)
    parts = triton.cdiv(12288, launch.tiles["BLOCK"])
    pointers = dict.fromkeys(("x", "out"), torch.bfloat16)
    return [compile_case(_gelu_tanh_kernel, "gelu_tanh", capability, launch, pointers, PARTS=parts)]
