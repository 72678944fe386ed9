"""What the tests of attention share: the exact answer, how far from it, and inputs that are awkward."""

from __future__ import annotations

import torch
from torch import Tensor

from hvlite.kernels.attention_variant import AttentionVariant

# Cosine at least, relative L1 at most, for P and V in 16 bits and in fp8.
LIMITS = {False: (0.9999, 0.015), True: (0.999, 0.045)}


def exact(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    """Attention in fp64: q [B, S, H, D], k and v [B, K, H, D]; mask [B, H, S, K] bool."""
    wide = (each.double().transpose(1, 2) for each in (q, k, v))
    return torch.nn.functional.scaled_dot_product_attention(*wide, attn_mask=mask).transpose(1, 2)


def check(found: Tensor, wanted: Tensor, variant: AttentionVariant) -> None:
    """Within the limits of the variant."""
    cosine, error = LIMITS[variant.is_transposed]
    wide = found.double()
    assert wide.isfinite().all()
    assert torch.nn.functional.cosine_similarity(wide.flatten(), wanted.flatten(), dim=0) >= cosine
    assert (wide - wanted).abs().sum() <= error * wanted.abs().sum()


def normal(shape: tuple[int, ...], device: torch.device, dtype: torch.dtype = torch.bfloat16, seed: int = 0) -> Tensor:
    """The same numbers on every device."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(device, dtype)
