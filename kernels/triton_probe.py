"""Compiles one small kernel with the installed Triton and, where there is a CUDA device, runs it: one JSON line.

    python -m hvlite.kernels.triton_probe

It is a process of its own: a broken Triton, a missing C compiler or a wrong driver may end it in any way.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import triton
import triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

SIDE = 32
WITHOUT_DEVICE = 86  # compile for an RTX 30 where there is no card


@triton.jit  # type: ignore[untyped-decorator]
def product(x, y, out, side: tl.constexpr):  # type: ignore[no-untyped-def]  # Triton allows no other annotation
    """out = x @ y; x, y fp16 [side, side], out fp32 [side, side]: loads, a tensor-core product, a store."""
    rows, columns = tl.arange(0, side)[:, None], tl.arange(0, side)[None, :]
    place = rows * side + columns
    tl.store(out + place, tl.dot(tl.load(x + place), tl.load(y + place)))


def compile_only() -> dict[str, Any]:
    """Compile for a card that is not there."""
    signature = {"x": "*fp16", "y": "*fp16", "out": "*fp32", "side": "constexpr"}
    made = triton.compile(
        ASTSource(fn=product, signature=signature, constexprs={"side": SIDE}),
        target=GPUTarget("cuda", WITHOUT_DEVICE, 32),
    )
    return {"binary_bytes": len(made.asm["cubin"]), "capability": WITHOUT_DEVICE, "ran": False}


def compile_and_run() -> dict[str, Any]:
    """Compile for the device that is there, run, and compare with torch."""
    import torch

    x, y = torch.randn(2, SIDE, SIDE, device="cuda", dtype=torch.float16)
    out = torch.full((SIDE, SIDE), float("nan"), device="cuda")
    made = product[(1,)](x, y, out, SIDE)
    torch.testing.assert_close(out, x.float() @ y.float(), rtol=1e-2, atol=1e-2)
    major, minor = torch.cuda.get_device_capability()
    return {"binary_bytes": len(made.asm["cubin"]), "capability": major * 10 + minor, "ran": True}


def has_device() -> bool:
    """Whether there is a card; torch is loaded only once Triton has proved to be importable."""
    import torch

    return torch.cuda.is_available()


if __name__ == "__main__":
    found = compile_and_run() if has_device() else compile_only()
    sys.stdout.write(json.dumps({"version": triton.__version__, **found}) + "\n")
