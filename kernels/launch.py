"""How kernels are launched and described to the compiler: plain values, no Triton."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

CAPABILITIES = (80, 86, 89, 90, 120)


@dataclass(frozen=True)
class Launch:
    """Tile sizes by their constexpr names, warps and pipeline stages of one kernel on one compute capability.

    `why` is the measurement or the limit that chose them.
    """

    tiles: Mapping[str, int]
    num_warps: int
    num_stages: int
    why: str


@dataclass(frozen=True, kw_only=True)
class CompileCase:
    """One kernel with one set of types and one launch, as the ahead-of-time check compiles it.

    `signature` has every argument in order with its Triton type ("*fp16", "i32", "fp32") or "constexpr"; `constexprs`
    gives the values of the latter, the tiles of `launch` included. `unaligned` names pointers and integers that are
    not multiples of 16. `tensor_core` is a part of the PTX instruction that must be there (several: with spaces
    between), None for kernels without products. `loop_flops` is twice the multiply-accumulates of one round of the hot
    loop, 0 where that says nothing.
    """

    name: str
    kernel: Any
    capability: int
    signature: Mapping[str, str]
    constexprs: Mapping[str, Any]
    launch: Launch
    unaligned: tuple[str, ...] = ()
    tensor_core: str | None = None
    loop_flops: int = 0
