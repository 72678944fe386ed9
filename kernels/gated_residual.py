"""x += gate * branch in place, each token a row: one read and one write of x, one read of the branch."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from .capability import capability_of
from .launch import CompileCase
from .rows import Rows, compile_case, contiguous_rows
from .tuning import launch_for


@triton.jit
def _gated_residual_kernel(
    x, branch, gate, tokens, columns, x_batch, x_token, branch_batch, branch_token, gate_batch,
    PARTS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """One program, one token, in PARTS pieces of BLOCK channels. The sum is made in fp32 and rounded once."""
    row = tl.program_id(0).to(tl.int64)
    sample, token = row // tokens, row % tokens
    x += sample * x_batch + token * x_token
    branch += sample * branch_batch + token * branch_token
    gate += sample * gate_batch
    for part in tl.static_range(PARTS):
        at = part * BLOCK + tl.arange(0, BLOCK)
        inside = at < columns
        product = tl.load(branch + at, mask=inside).to(tl.float32) * tl.load(gate + at, mask=inside).to(tl.float32)
        value = tl.load(x + at, mask=inside).to(tl.float32) + product
        tl.store(x + at, value.to(x.dtype.element_ty), mask=inside)


def gated_residual_(x: Tensor, branch: Tensor, gate: Tensor) -> None:
    """See `ops.gated_residual_`."""
    launch = launch_for("gated_residual", capability_of(x.device))
    rows, added, gate = Rows.of(x), Rows.of(contiguous_rows(branch)), contiguous_rows(gate)
    columns = x.shape[-1]
    _gated_residual_kernel[(rows.total,)](
        rows.tensor, added.tensor, gate, rows.tokens, columns,
        rows.batch_stride, rows.token_stride, added.batch_stride, added.token_stride, gate.stride(0),
        PARTS=triton.cdiv(columns, launch.tiles["BLOCK"]), **launch.tiles,
        num_warps=launch.num_warps, num_stages=launch.num_stages,
    )  # fmt: skip


def compile_cases(capability: int) -> list[CompileCase]:
    """At the 13B model's width."""
    launch = launch_for("gated_residual", capability)
    pointers = dict.fromkeys(("x", "branch", "gate"), torch.bfloat16)
    parts = triton.cdiv(3072, launch.tiles["BLOCK"])
    return [compile_case(_gated_residual_kernel, "gated_residual_", capability, launch, pointers, PARTS=parts)]
