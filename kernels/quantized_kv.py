"""K and V of a sequence in 8 bits, as the attention kernel reads them. No Triton."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from .attention_variant import KEY_BLOCK, AttentionVariant
from .key_layout import KeyLayout


@dataclass(frozen=True)
class QuantizedKV:
    """Buffers of one sequence, filled span by span.

    k: [B, H, keys, D] int8 of K - k_shift; k_scale: [B, H, blocks] fp32. v: V - v_mean, scaled, [B, H, D, keys] e4m3 or
    [B, H, keys, D] fp16. Softmax is the same for any shift of K, and rows of P sum to one, so the means may be those of
    a sample: k_shift, v_mean [B, H, D] fp32. v_scale [B, H, D] fp32, powers of two; `span_scales` those of each span as
    it was written, until `quantized_attention.align_values_` makes them one.
    """

    variant: AttentionVariant
    layout: KeyLayout
    k: Tensor
    k_scale: Tensor
    v: Tensor
    v_scale: Tensor
    k_shift: Tensor
    v_mean: Tensor
    span_scales: list[tuple[int, int, Tensor]] = field(default_factory=list)

    @property
    def nbytes(self) -> int:
        """What the buffers take."""
        held = (self.k, self.k_scale, self.v, self.v_scale, self.k_shift, self.v_mean)
        return sum(each.numel() * each.element_size() for each in held)

    @classmethod
    def allocate(
        cls, variant: AttentionVariant, layout: KeyLayout, batch: int, heads: int, dim: int, device: torch.device
    ) -> QuantizedKV:
        """Buffers that are not filled yet."""
        assert variant.v_dtype is not None, f"{variant.name} keeps K and V as they are"
        keys = layout.keys

        def fp32(*shape: int) -> Tensor:
            return torch.empty(shape, dtype=torch.float32, device=device)

        v_shape = (batch, heads, dim, keys) if variant.is_transposed else (batch, heads, keys, dim)
        return cls(
            variant=variant,
            layout=layout,
            k=torch.empty(batch, heads, keys, dim, dtype=torch.int8, device=device),
            k_scale=fp32(batch, heads, keys // KEY_BLOCK),
            v=torch.empty(v_shape, dtype=variant.v_dtype, device=device),
            v_scale=fp32(batch, heads, dim),
            k_shift=fp32(batch, heads, dim),
            v_mean=fp32(batch, heads, dim),
        )
