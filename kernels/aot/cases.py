"""What is compiled ahead of time: the cases of every module with kernels."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

from ..launch import CAPABILITIES, CompileCase

# Every module with kernels; each has compile_cases(capability) -> list[CompileCase]. aot.sage: to compare with.
MODULES = (
    "joint_attention",
    "qk_norm_rope",
    "quantize_v",
    "modulated_norm",
    "gated_residual",
    "gelu_tanh",
    "quantize_tokens",
    "scaled_mm",
    "w8a16_mm",
    "group_norm",
    "aot.sage",
)


def find_cases(modules: Sequence[str] = MODULES, capabilities: Sequence[int] = CAPABILITIES) -> list[CompileCase]:
    """The cases of these modules for these cards. `FILE.py` is loaded from its path (tests bring their own kernels)."""
    loaded = [_load(name) for name in modules if name.endswith(".py") or find_spec(f"..{name}", __package__)]
    return [case for each in capabilities for module in loaded for case in module.compile_cases(each)]


def _load(name: str) -> Any:
    if not name.endswith(".py"):
        return import_module(f"..{name}", __package__)
    spec = spec_from_file_location(Path(name).stem, name)
    if spec is None or spec.loader is None:
        raise ImportError(f"{name} is no Python module")
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
