"""Host memory of streamed blocks: the ring, the kept blocks, what of them is page-locked (arithmetic only).

Follows `streamed_blocks.py`: resident blocks are loaded through a ring of their own, which goes; then the ring of the
streamed ones is allocated, then the kept blocks; the ring goes as well where nothing needs to be staged in it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..streaming.tiers import Tier
from .types import Machine

RING = 2  # one block is copied while the next is read


@dataclass(frozen=True)
class HostShare:
    """`ring`: buffers that stay; `staged_bytes`: of kept blocks that go through them; `peak_bytes`: with loading."""

    ring: int
    held_bytes: int
    pinned_bytes: int
    staged_bytes: int
    peak_bytes: int


def host_share(machine: Machine, placed: Sequence[tuple[Tier, int]]) -> HostShare:
    """For the tier and the bytes of every block. On a CPU nothing is page-locked, and kept blocks serve as they are."""
    kept = [nbytes for tier, nbytes in placed if tier == "host"]
    from_disk = any(tier == "disk" for tier, _ in placed)
    loading = _ring([nbytes for tier, nbytes in placed if tier == "resident"])
    ring = _ring([nbytes for tier, nbytes in placed if tier != "resident"])
    limit = 0 if machine.on_cpu else machine.pinned_bytes
    pinned_ring = _within(limit, ring)
    pinned_kept = _within(limit - pinned_ring, kept)
    # A kept block that is not page-locked is staged, where the ring is: a copy from it would hold the host up.
    staged = sum(kept) - pinned_kept if pinned_ring else 0
    stays = ring if from_disk or staged else []
    return HostShare(
        ring=len(stays),
        held_bytes=sum(stays) + sum(kept),
        pinned_bytes=(pinned_ring if stays else 0) + pinned_kept,
        staged_bytes=staged,
        peak_bytes=max(sum(loading), sum(ring) + sum(kept)),
    )


def _ring(sizes: list[int]) -> list[int]:
    """Buffers for the largest of these blocks, no more than there are blocks."""
    return [max(sizes)] * min(RING, len(sizes)) if sizes else []


def _within(limit: int, buffers: Sequence[int]) -> int:
    """Bytes that are page-locked of buffers that are asked for in this order."""
    pinned = 0
    for nbytes in buffers:
        if pinned + nbytes <= limit:
            pinned += nbytes
    return pinned
