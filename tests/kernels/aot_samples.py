"""Kernels that the ahead-of-time check must judge rightly: a good one, and one for each thing that can be wrong."""

from __future__ import annotations

import triton
import triton.language as tl

from hvlite.kernels.launch import CompileCase, Launch


@triton.jit
def _product_kernel(
    a, b, out, depth, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, CORES: tl.constexpr, NARROW: tl.constexpr
):
    """out [BM, BN] = a [BM, depth] @ b [BN, depth].T, on tensor cores or without them."""
    m, n, k = tl.arange(0, BM), tl.arange(0, BN), tl.arange(0, BK)
    total = tl.zeros([BM, BN], tl.float32)
    for start in range(0, depth, BK):
        left = tl.load(a + m[:, None] * depth + start + k[None, :])
        if CORES:
            right = tl.load(b + n[None, :] * depth + start + k[:, None])
            if NARROW:
                left, right = left.to(tl.float8e4nv), right.to(tl.float8e4nv)
            total = tl.dot(left, right, total)
        else:
            right = tl.load(b + n[:, None] * depth + start + k[None, :])
            total += tl.sum(left[:, None, :].to(tl.float32) * right[None, :, :].to(tl.float32), 2)
    tl.store(out + m[:, None] * BN + n[None, :], total.to(tl.float16))


def _case(name: str, capability: int, launch: Launch, cores: bool = True, narrow: bool = False) -> CompileCase:
    types = {"a": "*fp16", "b": "*fp16", "out": "*fp16", "depth": "i32"}
    sizes = launch.tiles["BM"] * launch.tiles["BN"] * launch.tiles["BK"]
    return CompileCase(
        name=name,
        kernel=_product_kernel,
        capability=capability,
        signature={each: types.get(each, "constexpr") for each in _product_kernel.arg_names},
        constexprs={**launch.tiles, "CORES": cores, "NARROW": narrow},
        launch=launch,
        tensor_core="f32.e4m3.e4m3" if narrow else "f32.f16.f16",
        loop_flops=2 * sizes,
    )


def compile_cases(capability: int) -> list[CompileCase]:
    small = {"BM": 64, "BN": 64, "BK": 32}
    return [
        _case("good", capability, Launch(small, 4, 2, "a test")),
        _case("spilling", capability, Launch({"BM": 128, "BN": 64, "BK": 16}, 1, 2, "a test")),
        _case("shared", capability, Launch({"BM": 128, "BN": 128, "BK": 128}, 8, 4, "a test")),
        _case("scalar", capability, Launch({"BM": 16, "BN": 16, "BK": 16}, 4, 1, "a test"), cores=False),
        _case("narrow", capability, Launch(small, 4, 2, "a test"), narrow=True),
    ]
