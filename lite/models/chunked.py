"""The blocks over token chunks, in place: the schedule that fits 118,800 tokens into a few GiB.

Two passes over the chunks of a block. First K and V of every token, into one buffer that all blocks share. Then, chunk
by chunk: Q, attention over all K and V, projection, MLP, and the residual written into the tokens themselves. A chunk's
tokens change only after its K and V were taken, so the result is that of the whole block up to rounding. The cost is
one more read of the tokens for their norm (under 1 % of a block at 720p); nothing of the size of all tokens is made but
K and V. A name that a loop leaves behind would keep a chunk alive in the next round: each is deleted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from ...kernels import ops
from ...kernels.quantized_attention import sample_rows
from ...quantize.architecture import TransformerConfig
from ..attention import EXACT, Attention
from .blocks import DoubleStreamBlock, Modulation, RMSNorm, Rope, SingleStreamBlock
from .keys_values import KeysValues, RopeTable, allocate, span_tokens
from .linear import Tokens, add_linear_, gelu_for, linear_rows, linear_rows_into, normed_for

DEFAULT_TOKEN_CHUNK = 8192

KeysValuesOf = Callable[[Tensor], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class TokenSpan:
    """Tokens start..end of the sequence, all of the video or all of the text."""

    start: int
    end: int
    is_video: bool

    def of(self, tokens: Tensor) -> Tensor:
        """The view of these tokens: [B, S, ...] -> [B, end - start, ...]."""
        return tokens[:, self.start : self.end]


@dataclass(frozen=True)
class Sequence:
    """Video tokens, then text tokens, in one buffer [B, S, hidden]; K and V of every token beside them."""

    tokens: Tensor
    kv: KeysValues
    spans: tuple[TokenSpan, ...]
    rope: Rope

    @classmethod
    def allocate(
        cls,
        config: TransformerConfig,
        batch: int,
        video: int,
        text: int,
        rope: Rope,
        like: Tensor,
        chunk: int,
        attention: Attention = EXACT,
    ) -> Sequence:
        """Buffers for `video` and `text` tokens with the dtype and device of `like`, in chunks of `chunk` tokens.

        Where `attention` holds K and V in 8 bits, chunks are multiples of 64 tokens.
        """
        chunk = span_tokens(attention, chunk)
        return cls(
            tokens=like.new_empty(batch, video + text, config.hidden_size),
            kv=allocate(attention, batch, video, text, config.heads_num, config.head_dim, like),
            spans=tuple(token_spans(video, text, chunk)),
            rope=rope,
        )

    def begin(self, keys_values: KeysValuesOf, weight: Tensor | None) -> None:
        """A new block. `keys_values`: video tokens [B, n, hidden] -> K (not normed) and V; `weight`: of K's norm.

        Means that attention wants are those of a sample of the video, the same for every size of chunk.
        """

        def sample() -> tuple[Tensor, Tensor]:
            rows = sample_rows(self.rope.cos.shape[0], self.tokens.device)
            k, v = keys_values(self.tokens.index_select(1, rows))
            table = (self.rope.cos.index_select(0, rows), self.rope.sin.index_select(0, rows))
            return ops.qk_norm_rope(k, weight, table), v

        self.kv.begin(sample)

    def keep(self, span: TokenSpan, k: Tensor, v: Tensor, weight: Tensor | None) -> None:
        """Write the K (normed and rotated here) and V of a span, [B, s, heads, head_dim]."""
        self.kv.keep(span.start, k, v, weight, self._table(span))

    def attend(self, span: TokenSpan, q: Tensor, weight: Tensor | None) -> Tensor:
        """Q of a span (normed and rotated here) [B, s, heads, head_dim] over all K and V -> [B, s, hidden]."""
        return self.kv.attend(q, weight, self._table(span)).flatten(2)

    def _table(self, span: TokenSpan) -> RopeTable:
        """The rotary embedding of the video's tokens; text has no position."""
        if not span.is_video:
            return None
        return self.rope.cos[span.start : span.end], self.rope.sin[span.start : span.end]


def token_spans(video: int, text: int, chunk: int) -> Iterator[TokenSpan]:
    """Chunks of at most `chunk` tokens that do not cross from video to text."""
    for first, last, is_video in ((0, video, True), (video, video + text, False)):
        for start in range(first, last, chunk):
            yield TokenSpan(start, min(start + chunk, last), is_video)


@torch.no_grad()
def run_double(
    block: DoubleStreamBlock,
    sequence: Sequence,
    modulation: tuple[tuple[Modulation, ...], tuple[Modulation, ...]],
) -> None:
    """A double-stream block over `sequence.tokens`, in place."""
    dtype, video = sequence.tokens.dtype, _stream(block, is_video=True)
    sequence.begin(partial(video.keys_values, modulation[0][0]), norm_weight(video.k_norm, dtype))
    for span in sequence.spans:
        stream, (attention, _) = _stream(block, span.is_video), modulation[0 if span.is_video else 1]
        k, v = stream.keys_values(attention, span.of(sequence.tokens))
        sequence.keep(span, k, v, norm_weight(stream.k_norm, dtype))
        del k, v
    sequence.kv.finish()
    for span in sequence.spans:
        stream, (attention, mlp) = _stream(block, span.is_video), modulation[0 if span.is_video else 1]
        x = span.of(sequence.tokens)
        q = stream.queries(normed_for(stream.qkv, x, attention))
        attended = sequence.attend(span, q, norm_weight(stream.q_norm, dtype))
        del q
        add_linear_(x, stream.proj, attended, attention.gate)
        del attended
        _add_mlp_(x, stream.fc1, stream.fc2, mlp)


def _add_mlp_(x: Tensor, fc1: nn.Module, fc2: nn.Module, modulation: Modulation) -> None:
    """x += gate * MLP(norm(x)), in place; quantized layers take their input as codes."""
    inner = linear_rows(fc1, normed_for(fc1, x, modulation))
    add_linear_(x, fc2, gelu_for(fc2, inner), modulation.gate)


@torch.no_grad()
def run_single(block: SingleStreamBlock, sequence: Sequence, modulation: Modulation) -> None:
    """A single-stream block over `sequence.tokens`, in place; linear1's whole output is never made."""
    hidden, heads = block.hidden_size, block.heads
    q_weight, k_weight = (norm_weight(each, sequence.tokens.dtype) for each in (block.q_norm, block.k_norm))
    sequence.begin(partial(_single_keys_values, block, modulation), k_weight)
    for span in sequence.spans:
        k, v = _single_keys_values(block, modulation, span.of(sequence.tokens))
        sequence.keep(span, k, v, k_weight)
        del k, v
    sequence.kv.finish()
    for span in sequence.spans:
        x = span.of(sequence.tokens)
        h = normed_for(block.linear1, x, modulation)
        q = linear_rows(block.linear1, h, 0, hidden).unflatten(-1, (heads, -1))
        attended = sequence.attend(span, q, q_weight)
        both = x.new_empty(*x.shape[:2], block.linear2.in_features)
        both[..., :hidden] = attended
        del q, attended
        linear_rows_into(both[..., hidden:], block.linear1, h, 3 * hidden)
        del h
        add_linear_(x, block.linear2, gelu_for(block.linear2, both, hidden), modulation.gate)
        del both


def _single_keys_values(block: SingleStreamBlock, modulation: Modulation, x: Tensor) -> tuple[Tensor, Tensor]:
    h, hidden = normed_for(block.linear1, x, modulation), block.hidden_size
    k, v = linear_rows(block.linear1, h, hidden, 3 * hidden).unflatten(-1, (2, block.heads, -1)).unbind(2)
    return k, v


@dataclass(frozen=True)
class _Stream:
    """One stream's weights of a double block."""

    heads: int
    hidden: int
    qkv: nn.Module
    q_norm: nn.Module
    k_norm: nn.Module
    proj: nn.Module
    fc1: nn.Module
    fc2: nn.Module

    def queries(self, h: Tokens) -> Tensor:
        return linear_rows(self.qkv, h, 0, self.hidden).unflatten(-1, (self.heads, -1))

    def keys_values(self, modulation: Modulation, x: Tensor) -> tuple[Tensor, Tensor]:
        h = normed_for(self.qkv, x, modulation)
        k, v = linear_rows(self.qkv, h, self.hidden, 3 * self.hidden).unflatten(-1, (2, self.heads, -1)).unbind(2)
        return k, v


def norm_weight(norm: nn.Module, dtype: torch.dtype) -> Tensor | None:
    """The weight of a norm of Q or K; None where the architecture has no such norm."""
    return norm.weight.to(dtype) if isinstance(norm, RMSNorm) else None


def _stream(block: DoubleStreamBlock, is_video: bool) -> _Stream:
    name = "img" if is_video else "txt"
    parts = ("attn_qkv", "attn_q_norm", "attn_k_norm", "attn_proj", "mlp.fc1", "mlp.fc2")
    return _Stream(block.heads, block.hidden_size, *(block.get_submodule(f"{name}_{part}") for part in parts))
