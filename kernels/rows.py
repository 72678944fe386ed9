"""How the row kernels see a tensor: tokens of one or more samples, each a row of contiguous channels."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .launch import CompileCase, Launch

POINTERS = {
    torch.float32: "*fp32",
    torch.bfloat16: "*bf16",
    torch.float16: "*fp16",
    torch.int8: "*i8",
    torch.uint8: "*u8",
    torch.float8_e4m3fn: "*fp8e4nv",
}


class Rows(NamedTuple):
    """Row r is token r % tokens of sample r // tokens, at r // tokens * batch_stride + r % tokens * token_stride."""

    tensor: Tensor
    total: int
    tokens: int
    batch_stride: int
    token_stride: int

    @classmethod
    def of(cls, x: Tensor) -> Rows:
        """x [..., C] as rows without a copy. ValueError where its channels or leading dimensions do not allow it."""
        if x.stride(-1) != 1 and x.shape[-1] > 1:
            raise ValueError(f"the channels of {list(x.shape)} are {x.stride(-1)} apart; expected contiguous ones")
        flat = x.view(-1, *x.shape[-2:]) if x.ndim > 3 else x[(None,) * (3 - x.ndim)]
        return cls(flat, flat.shape[0] * flat.shape[1], flat.shape[1], flat.stride(0), flat.stride(1))


def contiguous_rows(x: Tensor) -> Tensor:
    """x itself where its channels are contiguous, else a copy."""
    return x if x.stride(-1) == 1 else x.contiguous()


def compile_case(
    kernel: Any,
    name: str,
    capability: int,
    launch: Launch,
    pointers: Mapping[str, torch.dtype],
    *,
    eps: bool = False,
    tensor_core: str | None = None,
    loop_flops: int = 0,
    unaligned: tuple[str, ...] = (),
    **constants: Any,
) -> CompileCase:
    """A case whose pointers have these dtypes and whose constexpr arguments, beside the tiles, these values.

    Every other argument is a 32-bit integer, but `eps`, which is fp32.
    """
    values = {**constants, **launch.tiles}
    others = {**dict.fromkeys(values, "constexpr"), **({"eps": "fp32"} if eps else {})}
    signature = {
        each: POINTERS[pointers[each]] if each in pointers else others.get(each, "i32") for each in kernel.arg_names
    }
    return CompileCase(
        name=name,
        kernel=kernel,
        capability=capability,
        signature=signature,
        constexprs=values,
        launch=launch,
        unaligned=unaligned,
        tensor_core=tensor_core,
        loop_flops=loop_flops,
    )
