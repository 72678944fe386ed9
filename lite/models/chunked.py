"""The blocks over token chunks, in place: the schedule that fits 118,800 tokens into a few GiB.

Two passes over the chunks of a block. First K and V of every token, into one buffer that all blocks share. Then, chunk
by chunk: Q, attention over all K and V, projection, MLP, and the residual written into the tokens themselves. A chunk's
tokens change only after its K and V were taken, so the result is that of the whole block up to rounding. The cost is
one more read of the tokens for their norm (under 1 % of a block at 720p); nothing of the size of all tokens is made but
K and V. A name that a loop leaves behind would keep a chunk alive in the next round: each is deleted.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ...kernels import ops
from ...quantize.architecture import TransformerConfig
from .blocks import DoubleStreamBlock, Modulation, Rope, SingleStreamBlock
from .linear import Tokens, add_linear_, gelu_for, linear_rows, linear_rows_into, normed_for

DEFAULT_TOKEN_CHUNK = 8192


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
    """Video tokens, then text tokens, in one buffer [B, S, hidden]; K and V of every token, [B, S, heads, head_dim]."""

    tokens: Tensor
    k: Tensor
    v: Tensor
    spans: tuple[TokenSpan, ...]
    rope: Rope

    @classmethod
    def allocate(
        cls, config: TransformerConfig, batch: int, video: int, text: int, rope: Rope, like: Tensor, chunk: int
    ) -> Sequence:
        """Buffers for `video` and `text` tokens with the dtype and device of `like`, in chunks of `chunk` tokens."""
        heads = (batch, video + text, config.heads_num, config.head_dim)
        return cls(
            tokens=like.new_empty(batch, video + text, config.hidden_size),
            k=like.new_empty(heads),
            v=like.new_empty(heads),
            spans=tuple(token_spans(video, text, chunk)),
            rope=rope,
        )

    def keep_keys(self, span: TokenSpan, k: Tensor, v: Tensor) -> None:
        """Write the K (rotated here) and V of a span."""
        span.of(self.k).copy_(self.rotate(span, k))
        span.of(self.v).copy_(v)

    def attend(self, span: TokenSpan, q: Tensor) -> Tensor:
        """Q of a span (rotated here) [B, s, heads, head_dim] over all K and V -> [B, s, hidden]."""
        return ops.joint_attention(self.rotate(span, q), self.k, self.v).flatten(2)

    def rotate(self, span: TokenSpan, x: Tensor) -> Tensor:
        """Rotary embedding of the video's tokens; text has no position."""
        if not span.is_video:
            return x
        return ops.apply_rope(x, self.rope.cos[span.start : span.end], self.rope.sin[span.start : span.end])


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
    for span in sequence.spans:
        stream, (attention, _) = _stream(block, span), modulation[0 if span.is_video else 1]
        k, v = stream.keys_values(normed_for(stream.qkv, span.of(sequence.tokens), attention))
        sequence.keep_keys(span, k, v)
        del k, v
    for span in sequence.spans:
        stream, (attention, mlp) = _stream(block, span), modulation[0 if span.is_video else 1]
        x = span.of(sequence.tokens)
        q = stream.queries(normed_for(stream.qkv, x, attention))
        add_linear_(x, stream.proj, sequence.attend(span, q), attention.gate)
        del q
        _add_mlp_(x, stream.fc1, stream.fc2, mlp)


def _add_mlp_(x: Tensor, fc1: nn.Module, fc2: nn.Module, modulation: Modulation) -> None:
    """x += gate * MLP(norm(x)), in place; quantized layers take their input as codes."""
    inner = linear_rows(fc1, normed_for(fc1, x, modulation))
    add_linear_(x, fc2, gelu_for(fc2, inner), modulation.gate)


@torch.no_grad()
def run_single(block: SingleStreamBlock, sequence: Sequence, modulation: Modulation) -> None:
    """A single-stream block over `sequence.tokens`, in place; linear1's whole output is never made."""
    hidden, heads = block.hidden_size, block.heads
    for span in sequence.spans:
        h = normed_for(block.linear1, span.of(sequence.tokens), modulation)
        k, v = linear_rows(block.linear1, h, hidden, 3 * hidden).unflatten(-1, (2, heads, -1)).unbind(2)
        del h
        sequence.keep_keys(span, block.k_norm(k), v)
        del k, v
    for span in sequence.spans:
        x = span.of(sequence.tokens)
        h = normed_for(block.linear1, x, modulation)
        q = block.q_norm(linear_rows(block.linear1, h, 0, hidden).unflatten(-1, (heads, -1)))
        attended = sequence.attend(span, q)
        both = x.new_empty(*x.shape[:2], block.linear2.in_features)
        both[..., :hidden] = attended
        del q, attended
        linear_rows_into(both[..., hidden:], block.linear1, h, 3 * hidden)
        del h
        add_linear_(x, block.linear2, gelu_for(block.linear2, both, hidden), modulation.gate)
        del both


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
        return self.q_norm(linear_rows(self.qkv, h, 0, self.hidden).unflatten(-1, (self.heads, -1)))

    def keys_values(self, h: Tokens) -> tuple[Tensor, Tensor]:
        k, v = linear_rows(self.qkv, h, self.hidden, 3 * self.hidden).unflatten(-1, (2, self.heads, -1)).unbind(2)
        return self.k_norm(k), v


def _stream(block: DoubleStreamBlock, span: TokenSpan) -> _Stream:
    name = "img" if span.is_video else "txt"
    parts = ("attn_qkv", "attn_q_norm", "attn_k_norm", "attn_proj", "mlp.fc1", "mlp.fc2")
    return _Stream(block.heads, block.hidden_size, *(block.get_submodule(f"{name}_{part}") for part in parts))
