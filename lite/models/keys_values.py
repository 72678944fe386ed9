"""K and V of all tokens of a sequence, as the attention of the run wants them: written span by span, then read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, TypeGuard

from torch import Tensor

from ...kernels import ops, quantized_attention
from ...kernels.attention_variant import KEY_BLOCK, AttentionVariant
from ...kernels.key_layout import KeyLayout
from ...kernels.quantized_kv import QuantizedKV
from ...kernels.sdpa import check_sage_shape, sage
from ..attention import Attention

RopeTable = tuple[Tensor, Tensor] | None
Sample = Callable[[], tuple[Tensor, Tensor]]
"""Gives K (normed and rotated) and V of some tokens spread over the video, [B, n, H, D]."""


class KeysValues(Protocol):
    """For each block: `begin`, `keep` each span once, `finish`; then `attend` with the Q of each span."""

    @property
    def nbytes(self) -> int:
        """What the buffers take."""

    def begin(self, sample: Sample) -> None:
        """A new block; `sample` is called where means are needed."""

    def keep(self, start: int, k: Tensor, v: Tensor, weight: Tensor | None, rope: RopeTable) -> None:
        """K and V of tokens from `start` on, [B, s, H, D]; K is normed and rotated here."""

    def finish(self) -> None:
        """All spans are here."""

    def attend(self, q: Tensor, weight: Tensor | None, rope: RopeTable) -> Tensor:
        """Q [B, s, H, D], normed and rotated here, over all K and V -> [B, s, H, D]."""


@dataclass
class PlainKeysValues:
    """K and V [B, S, H, D] in the activations' type, for PyTorch's attention, sageattention and our 16-bit kernel."""

    k: Tensor
    v: Tensor
    attention: Attention
    shift: Tensor | None = None

    @property
    def nbytes(self) -> int:
        return sum(each.numel() * each.element_size() for each in (self.k, self.v))

    def begin(self, sample: Sample) -> None:
        if self.attention.kernel == "sage":
            check_sage_shape(self.k.shape[1], self.k.shape[3])
            self.shift = sample()[0].float().mean(dim=1, keepdim=True).to(self.k.dtype)

    def keep(self, start: int, k: Tensor, v: Tensor, weight: Tensor | None, rope: RopeTable) -> None:
        keys, values = (each[:, start : start + k.shape[1]] for each in (self.k, self.v))
        keys.copy_(ops.qk_norm_rope(k, weight, rope))
        values.copy_(v)
        if self.shift is not None:
            keys.sub_(self.shift)

    def finish(self) -> None:
        return None

    def attend(self, q: Tensor, weight: Tensor | None, rope: RopeTable) -> Tensor:
        q = ops.qk_norm_rope(q, weight, rope)
        if self.attention.kernel == "sage":
            return sage(q, self.k, self.v)
        return ops.joint_attention(q, self.k, self.v, self.attention.variant)


@dataclass
class QuantizedKeysValues:
    """K and V in 8 bits for our kernel: 2 bytes for both (V in fp16: 3) instead of 4."""

    kv: QuantizedKV

    @property
    def nbytes(self) -> int:
        return self.kv.nbytes

    def begin(self, sample: Sample) -> None:
        quantized_attention.set_means_(self.kv, *sample())

    def keep(self, start: int, k: Tensor, v: Tensor, weight: Tensor | None, rope: RopeTable) -> None:
        quantized_attention.quantize_keys_(self.kv, start, k, weight, rope)
        quantized_attention.quantize_values_(self.kv, start, v)

    def finish(self) -> None:
        quantized_attention.align_values_(self.kv)

    def attend(self, q: Tensor, weight: Tensor | None, rope: RopeTable) -> Tensor:
        codes, scale = quantized_attention.quantize_queries(q, weight, rope)
        return quantized_attention.attend(codes, scale, self.kv, q.dtype)


def allocate(attention: Attention, batch: int, video: int, text: int, heads: int, dim: int, like: Tensor) -> KeysValues:
    """Buffers for `video` and `text` tokens on the device of `like`."""
    if is_quantized(attention.variant):
        layout = KeyLayout((video, text))
        return QuantizedKeysValues(QuantizedKV.allocate(attention.variant, layout, batch, heads, dim, like.device))
    shape = (batch, video + text, heads, dim)
    return PlainKeysValues(like.new_empty(shape), like.new_empty(shape), attention)


def span_tokens(attention: Attention, chunk: int) -> int:
    """Tokens of a span: in 8 bits a multiple of 64, because 64 keys share a scale."""
    return max(chunk // KEY_BLOCK, 1) * KEY_BLOCK if is_quantized(attention.variant) else chunk


def is_quantized(variant: AttentionVariant | None) -> TypeGuard[AttentionVariant]:
    """Whether K and V are held in 8 bits."""
    return variant is not None and variant.is_quantized
