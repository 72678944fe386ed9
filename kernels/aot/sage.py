"""The attention kernel of the PyPI package sageattention as a compile case: what ours is compared with."""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import PackageNotFoundError, version

from ..launch import CompileCase, Launch

TILES = {"BLOCK_M": 128, "BLOCK_N": 64}
FIXED = {"H": 24, "num_kv_groups": 1, "HEAD_DIM": 128, "STAGE": 1, **TILES}
TYPES = {"Q": "*i8", "K": "*i8", "V": "*fp16", "Q_scale": "*fp32", "K_scale": "*fp32", "Out": "*bf16"}


def compile_cases(capability: int) -> list[CompileCase]:
    """As its launcher starts it for 24 heads of 128; nothing where the package is not installed."""
    try:
        found = version("sageattention")
    except PackageNotFoundError:
        return []
    kernel = import_module("sageattention.attn_qk_int8_per_block")._attn_fwd
    case = CompileCase(
        name=f"sageattention-{found}",
        kernel=kernel,
        capability=capability,
        signature={name: "constexpr" if name in FIXED else TYPES.get(name, "i32") for name in kernel.arg_names},
        constexprs=FIXED,
        launch=Launch(TILES, 8, 4, "its own launcher's"),
        tensor_core="s32.s8.s8 f16.f16",
        loop_flops=4 * 128 * 64 * 128,
    )
    return [case]
