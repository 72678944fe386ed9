"""What is compiled ahead of time: every module's cases, and sageattention's kernel to compare ours with."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

from .launch import CAPABILITIES, CompileCase, Launch

# Every module with kernels; each has compile_cases(capability) -> list[CompileCase].
MODULES = (
    "joint_attention",
    "qk_norm_rope",
    "modulated_norm",
    "gated_residual",
    "gelu_tanh",
    "quantize_tokens",
    "scaled_mm",
    "w8a16_mm",
    "group_norm",
)


def all_cases(modules: Sequence[str] = MODULES) -> list[CompileCase]:
    """The cases of every kernel for every capability, and of sageattention's kernel where it is installed.

    A module's name may have a path in front: `FILE.py` is loaded from there (tests bring their own).
    """
    loaded = [_load(name) for name in modules if name.endswith(".py") or find_spec(f".{name}", __package__)]
    cases = [case for cap in CAPABILITIES for module in loaded for case in module.compile_cases(cap)]
    return cases + [case for cap in CAPABILITIES for case in sage_cases(cap)]


def _load(name: str) -> Any:
    if not name.endswith(".py"):
        return import_module(f".{name}", __package__)
    spec = spec_from_file_location(Path(name).stem, name)
    if spec is None or spec.loader is None:
        raise ImportError(f"{name} is no Python module")
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def sage_cases(capability: int) -> list[CompileCase]:
    """The attention kernel of sageattention as its launcher starts it for heads of 128: what ours is compared with."""
    try:
        found = version("sageattention")
    except PackageNotFoundError:
        return []
    kernel = import_module("sageattention.attn_qk_int8_per_block")._attn_fwd
    fixed = {"H": 24, "num_kv_groups": 1, "HEAD_DIM": 128, "BLOCK_M": 128, "BLOCK_N": 64, "STAGE": 1}
    types = {"Q": "*i8", "K": "*i8", "V": "*fp16", "Q_scale": "*fp32", "K_scale": "*fp32", "Out": "*bf16"}
    signature = {name: "constexpr" if name in fixed else types.get(name, "i32") for name in kernel.arg_names}
    launch = Launch({"BLOCK_M": 128, "BLOCK_N": 64}, 8, 4, "its own launcher's")
    name = f"sageattention-{found}"
    case = CompileCase(
        name=name, kernel=kernel, capability=capability, signature=signature, constexprs=fixed, launch=launch,
        tensor_core="s32.s8.s8", loop_flops=4 * 128 * 64 * 128,
    )  # fmt: skip
    return [case]
