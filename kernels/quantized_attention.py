"""Attention in 8 bits as operations: quantize Q, K and V, then attend. On a CPU each is its PyTorch reference.

Shapes: B samples, S tokens, H heads, D head dimension. A rotary table is (cos, sin), each [S, D/2] fp32.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..errors import ConfigError
from . import attention_library, attention_reference
from .attention_variant import AttentionVariant
from .capability import runs_kernels
from .key_layout import KeyBlocks, KeyLayout
from .quantized_kv import QuantizedKV

EPS = 1e-6
SAMPLE = (
    256  # rows whose mean shifts K and V: as good as the exact mean (relative error .0050 beside .0049; none .0205)
)
LOG2_E = math.log2(math.e)
Rope = tuple[Tensor, Tensor]


def sample_rows(tokens: int, device: torch.device) -> Tensor:
    """Which of a number of tokens K's shift and V's mean come from: the indices of at most 256, evenly spread."""
    count = min(tokens, SAMPLE)
    return torch.arange(count, device=device) * tokens // count


def set_means_(kv: QuantizedKV, k: Tensor, v: Tensor) -> None:
    """K's shift and V's mean from a sample of tokens: k (normed and rotated) and v, [B, S, H, D].

    V's is rounded to a sixteenth of the channel's range. V in bf16 lies on a grid; moved off it by a fraction of a
    step, all its values would be rounded the same way, and where attention is flat that adds up: the relative error of
    fp8 P and V at 4096 normal tokens was .056 instead of .039.
    """
    kv.k_shift.copy_(k.float().mean(dim=1))
    step = attention_reference.power_of_two(v.float().abs().amax(dim=1)) / 16
    kv.v_mean.copy_((v.float().mean(dim=1) / step).round() * step)


def quantize_queries(
    q: Tensor, weight: Tensor | None = None, rope: Rope | None = None, eps: float = EPS
) -> tuple[Tensor, Tensor]:
    """RMSNorm (with `weight` [D]), rotation, int8 codes [B, H, S, D] and a scale a row [B, H, S] fp32.

    q: [B, S, H, D]. The scales carry the softmax's 1 / sqrt(D) and log2(e).
    """
    factor = q.shape[-1] ** -0.5 * LOG2_E
    if runs_kernels(q.device):
        return attention_library.quantize_queries(q, weight, *(rope or (None, None)), eps, factor)
    return attention_reference.quantize_queries(q, weight, rope, eps, factor)


def quantize_keys_(
    kv: QuantizedKV, start: int, k: Tensor, weight: Tensor | None = None, rope: Rope | None = None, eps: float = EPS
) -> None:
    """Tokens from `start` on into `kv`: k [B, S, H, D], normed and rotated here, less its shift, as int8 codes."""
    place = kv.layout.place(start, start + k.shape[1])
    if runs_kernels(k.device):
        table = rope or (None, None)
        attention_library.quantize_keys_(kv.k, kv.k_scale, k, weight, *table, eps, kv.k_shift, place.first, place.tail)
    else:
        attention_reference.quantize_keys_(kv.k, kv.k_scale, k, weight, rope, eps, kv.k_shift, place)


def quantize_values_(kv: QuantizedKV, start: int, v: Tensor) -> None:
    """Tokens from `start` on into `kv`: v [B, S, H, D], less its mean, at a scale of this span's own."""
    place = kv.layout.place(start, start + v.shape[1])
    if runs_kernels(v.device):
        name = kv.variant.name
        scale = attention_library.quantize_values_(kv.v, v, kv.v_mean, place.first, place.tail, name)
    else:
        scale = attention_reference.quantize_values_(kv.v, v, kv.v_mean, place, kv.variant)
    kv.span_scales.append((start, start + v.shape[1], scale))


def align_values_(kv: QuantizedKV) -> None:
    """All spans of V to one scale, the largest. After the last span, before `attend`."""
    kv.v_scale.copy_(torch.stack([scale for _, _, scale in kv.span_scales]).amax(dim=0))
    for start, end, scale in kv.span_scales if len(kv.span_scales) > 1 else ():
        place, factor = kv.layout.place(start, end), scale / kv.v_scale
        if runs_kernels(factor.device):
            where = (place.first, place.tail, end - start)
            attention_library.align_values_(kv.v, factor, *where, kv.variant.name)
        else:
            attention_reference.align_values_(kv.v, factor, place, end - start, kv.variant)
    kv.span_scales.clear()


def attend(
    codes: Tensor, scale: Tensor, kv: QuantizedKV, dtype: torch.dtype, blocks: KeyBlocks | None = None
) -> Tensor:
    """Attention of quantized Q (codes [B, H, S, D], scale [B, H, S]) over all of `kv` -> [B, S, H, D] in `dtype`.

    `blocks`: only these blocks of keys for each block of queries; a row with none gives zeros.
    """
    if codes.shape[:2] != kv.k.shape[:2] or codes.shape[3] != kv.k.shape[3]:
        raise ConfigError(f"Q {list(codes.shape)} over K {list(kv.k.shape)}; expected the same B, H and D")
    buffers = (codes, scale, kv.k, kv.k_scale, kv.v, kv.v_scale, kv.v_mean)
    if runs_kernels(codes.device):
        lists = (None, None, 0) if blocks is None else (blocks.ids, blocks.counts, blocks.query_block)
        segments = list(kv.layout.segments)
        return attention_library.attend(*buffers, segments, kv.variant.name, dtype, *lists)
    return attention_reference.attend(*buffers, kv.layout, kv.variant, dtype, blocks)


def joint_attention(
    q: Tensor, k: Tensor, v: Tensor, variant: AttentionVariant, blocks: KeyBlocks | None = None
) -> Tensor:
    """`ops.joint_attention` in 8 bits, whole: q [B, S, H, D], k and v [B, K, H, D] -> [B, S, H, D] in q's dtype."""
    batch, tokens, heads, dim = k.shape
    kv = QuantizedKV.allocate(variant, KeyLayout((tokens,)), batch, heads, dim, k.device)
    rows = sample_rows(tokens, k.device)
    set_means_(kv, k.index_select(1, rows), v.index_select(1, rows))
    quantize_keys_(kv, 0, k)
    quantize_values_(kv, 0, v)
    align_values_(kv)
    return attend(*quantize_queries(q), kv, q.dtype, blocks)
