"""Bytes of K and V of a whole sequence, by how attention multiplies them (arithmetic only)."""

from __future__ import annotations

from dataclasses import dataclass

from . import operators as op

KEY_BLOCK = 64  # keys that share a scale


@dataclass(frozen=True)
class KvWidth:
    """Bytes of an element of K and of V; None: as wide as an activation, without scales."""

    k: int | None = None
    v: int | None = None


SIXTEEN_BIT = "16-bit"  # K and V in the type of the activations (fp32 on a CPU)
KV_WIDTHS = {
    SIXTEEN_BIT: KvWidth(),
    "int8-fp16": KvWidth(1, 2),
    "int8-fp8-fp16": KvWidth(1, 1),
    "int8-fp8": KvWidth(1, 1),
}


def attention_of(capability: tuple[int, int]) -> str:
    """What a card of this capability takes by itself (`lite.attention`), its Triton in order."""
    if capability < (8, 0):
        return SIXTEEN_BIT
    if capability < (8, 9):
        return "int8-fp16"
    return "int8-fp8" if (9, 0) <= capability < (12, 0) else "int8-fp8-fp16"


def fused_of(capability: tuple[int, int]) -> tuple[str, ...]:
    """The schemes whose codes such a card multiplies (`lite.arithmetic`)."""
    if capability < (8, 0):
        return ()
    return ("int8",) if capability < (8, 9) else ("int8", "fp8")


def kv_bytes(attention: str, tokens: int, hidden: int, heads: int, w: int, chunk: int) -> int:
    """K and V of `tokens`, with the scales and shifts of 8-bit ones: K's of 64 keys and a head, V's of a channel.

    Video and text each end in a block of their own, so up to two blocks are not full. V's scales are kept for every
    chunk until they are made one.
    """
    width = KV_WIDTHS[attention]
    if width.k is None or width.v is None:
        return 2 * tokens * hidden * w
    keys = (tokens // KEY_BLOCK + 2) * KEY_BLOCK
    scales = keys // KEY_BLOCK * heads + (3 + -(-tokens // chunk) + 1) * hidden
    return keys * hidden * (width.k + width.v) + op.FP32 * scales
