"""The ladder: which arrangement to try when one does not fit (arithmetic only).

Half of the resident blocks goes first: the bits stay the same, and a copy that hides behind the computation costs no
time. Then the token chunk, whose size decides how sums are rounded, and the blocks kept on the host. What leaves a place
goes to disk, since that takes no memory anywhere; the system's page cache gives it back where there is room.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from ..arrangement import Arrangement
from ..streaming.tiers import TierCounts

MOST_RUNGS = 6
SMALLEST_CHUNK = 512  # smaller ones make 8-bit weights wide more often than they multiply with them


@dataclass(frozen=True)
class Rung:
    """The next arrangement, and what is said of it."""

    arrangement: Arrangement
    change: str


def next_rung(now: Arrangement, tokens: int) -> Rung | None:
    """The step down for a denoise step over `tokens` that ran out of memory; None where nothing is left to give."""
    return next(_rungs(now, tokens), None)


def _rungs(now: Arrangement, tokens: int) -> Iterator[Rung]:
    tiers, chunk = now.tiers, min(now.token_chunk, tokens)
    if tiers is not None and tiers.resident:
        kept = tiers.resident // 2 if 2 * tiers.resident > tiers.total else 0
        fewer = TierCounts(resident=kept, host=tiers.host, disk=tiers.disk + tiers.resident - kept)
        yield Rung(replace(now, tiers=fewer), f"with {kept} of {tiers.total} blocks on the device")
    if chunk > SMALLEST_CHUNK:
        smaller = max(SMALLEST_CHUNK, chunk // 4)
        yield Rung(replace(now, token_chunk=smaller), f"with {smaller} tokens at a time (rounds differently)")
    if tiers is not None and tiers.host:
        on_disk = TierCounts(disk=tiers.host + tiers.disk)
        yield Rung(replace(now, tiers=on_disk), "with no blocks in host memory")
