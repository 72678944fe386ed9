"""The forms of attention that our kernel has, as values; no Triton."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch

KEY_BLOCK = 64  # keys that share a scale, and that one round of the kernel's loop takes
HEAD_DIMS = (64, 128)  # what the kernel is compiled for

Product = Literal["16-bit", "fp16", "fp8", "fp8-fp16"]


@dataclass(frozen=True)
class AttentionVariant:
    """How Q, K and V are multiplied.

    `product` is that of P and V: "16-bit" in q's own type summed in fp32 (Q and K are multiplied so too); "fp16" and
    "fp8-fp16" with the sum of 64 or 128 keys in fp16, twice as fast on RTX cards; "fp8" summed in fp32. `v_limit` is
    the largest |V| after scaling: 128 keys of P at its largest times it stay below 65504, the largest fp16, where the
    sum is in fp16. `p_limit` is what P is scaled to. `least_capability`: the first card with the instruction.
    """

    name: str
    product: Product
    v_dtype: torch.dtype | None
    v_limit: float
    p_limit: float
    least_capability: int

    @property
    def is_quantized(self) -> bool:
        """Whether Q and K are int8 codes and V is scaled."""
        return self.v_dtype is not None

    @property
    def is_transposed(self) -> bool:
        """8-bit V lies as [D, keys]: the tensor cores want the keys of a channel side by side."""
        return self.v_dtype == torch.float8_e4m3fn

    @property
    def half_sum(self) -> bool:
        """Whether the products of a round of the loop are summed in fp16."""
        return self.product in ("fp16", "fp8-fp16")

    def kv_bytes(self, activation_bytes: int) -> int:
        """Bytes of one element of K and one of V together, scales apart."""
        return 2 * activation_bytes if self.v_dtype is None else 1 + self.v_dtype.itemsize


SIXTEEN_BIT = AttentionVariant("16-bit", "16-bit", None, 0.0, 1.0, 80)
INT8_FP16 = AttentionVariant("int8-fp16", "fp16", torch.float16, 256.0, 1.0, 80)
INT8_FP8_FP16 = AttentionVariant("int8-fp8-fp16", "fp8-fp16", torch.float8_e4m3fn, 1.125, 448.0, 89)
INT8_FP8 = AttentionVariant("int8-fp8", "fp8", torch.float8_e4m3fn, 448.0, 448.0, 89)
VARIANTS = {each.name: each for each in (SIXTEEN_BIT, INT8_FP16, INT8_FP8_FP16, INT8_FP8)}
