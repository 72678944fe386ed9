"""Where the keys of a sequence lie in blocks of 64, and which blocks a query looks at. No Triton.

Softmax does not care in which order it meets the keys, so their place is free. A sequence is made of segments (video,
then text), each known in another pass with weights of its own. The full blocks of all segments come first, one after
another; behind them lies what is left of each segment, in a block of its own. So every block's keys, and with them its
scale, come from one segment and one call, the kernel's main loop masks nothing, and the one or two blocks behind it are
masked exactly.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import ConfigError
from .attention_variant import KEY_BLOCK


@dataclass(frozen=True)
class BlockPlace:
    """Where a run of tokens goes: full blocks from `first`, what is left into block `tail`, behind all full ones."""

    first: int
    tail: int

    def runs(self, tokens: int) -> list[tuple[slice, slice]]:
        """(tokens, keys) of the full blocks and of what is left, of a run of `tokens`; the latter has no full block."""
        full, first, tail = tokens // KEY_BLOCK * KEY_BLOCK, self.first * KEY_BLOCK, self.tail * KEY_BLOCK
        whole = (slice(0, full), slice(first, first + full))
        left = (slice(full, tokens), slice(tail, tail + tokens - full))
        return [(each, keys) for each, keys in (whole, left) if each.stop > each.start]


@dataclass(frozen=True)
class KeyLayout:
    """`segments`: the numbers of tokens of one or two parts of a sequence, none of them empty but by being absent."""

    segments: tuple[int, ...]

    def __post_init__(self) -> None:
        if not 1 <= len(self.segments) <= 2 or min(self.segments) < 1:
            raise ConfigError(f"key segments {list(self.segments)}; expected one or two, each of one token or more")

    @property
    def full_blocks(self) -> int:
        return sum(count // KEY_BLOCK for count in self.segments)

    @property
    def tails(self) -> tuple[int, ...]:
        """How many keys are valid in each block behind the full ones."""
        return tuple(count % KEY_BLOCK for count in self.segments if count % KEY_BLOCK)

    @property
    def blocks(self) -> int:
        return self.full_blocks + len(self.tails)

    @property
    def keys(self) -> int:
        """Places for keys, those without one among them."""
        return self.blocks * KEY_BLOCK

    def place(self, start: int, end: int) -> BlockPlace:
        """Of tokens start..end of the sequence, which lie in one segment and start at a multiple of 64 in it."""
        segment, offset = self._segment(start)
        inside, last = start - offset, end - offset
        ends_segment = last == self.segments[segment]
        if inside % KEY_BLOCK or not (ends_segment or (last < self.segments[segment] and last % KEY_BLOCK == 0)):
            raise ConfigError(f"tokens {start} to {end} do not lie on blocks of {KEY_BLOCK} keys of {self.segments}")
        first = sum(count // KEY_BLOCK for count in self.segments[:segment]) + inside // KEY_BLOCK
        earlier_tails = sum(count % KEY_BLOCK > 0 for count in self.segments[:segment])
        return BlockPlace(first, self.full_blocks + earlier_tails)

    def token_places(self) -> list[int]:
        """The place of every token in order."""
        places: list[int] = []
        start = 0
        for count in self.segments:
            for _, keys in self.place(start, start + count).runs(count):
                places += range(keys.start, keys.stop)
            start += count
        return places

    def _segment(self, token: int) -> tuple[int, int]:
        """The segment of a token, and the token at which it starts."""
        offset = 0
        for index, count in enumerate(self.segments):
            if token < offset + count:
                return index, offset
            offset += count
        raise ConfigError(f"token {token} is not in a sequence of {offset}")


@dataclass(frozen=True)
class KeyBlocks:
    """The blocks of keys that each block of queries looks at (block-sparse attention).

    ids: [B, H, query blocks, blocks] int32, of each row the first `counts[..., 1]` are valid: `counts[..., 0]` full
    blocks, then those behind the full ones. counts: [B, H, query blocks, 2] int32.
    """

    ids: Tensor
    counts: Tensor
    query_block: int

    @classmethod
    def from_mask(cls, mask: Tensor, layout: KeyLayout, query_block: int) -> KeyBlocks:
        """mask: [B, H, query blocks, blocks] bool, in the layout's order of blocks; `query_block` rows of Q each."""
        if mask.ndim != 4 or mask.shape[-1] != layout.blocks or mask.dtype != torch.bool:
            raise ConfigError(
                f"block mask {list(mask.shape)} {mask.dtype}; expected [B, H, query blocks, {layout.blocks}] bool"
            )
        ids = torch.argsort(mask.logical_not().to(torch.uint8), dim=-1, stable=True).to(torch.int32)
        counts = torch.stack([mask[..., : layout.full_blocks].sum(-1), mask.sum(-1)], dim=-1).to(torch.int32)
        return cls(ids.contiguous(), counts.contiguous(), query_block)
