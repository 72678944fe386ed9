"""The ladder: which arrangement to try when one does not fit (arithmetic only).

Half of the resident blocks goes first, then the others: the bits stay the same, and a copy that hides behind the
computation costs no time. Then the token chunk, whose size decides how sums are rounded, and the blocks kept on the
host. What leaves a place goes to disk, which takes no memory anywhere; the system's page cache holds it where it can.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from ..arrangement import Arrangement
from ..streaming.tiers import TierCounts
from ..tiling import TileSpec

MOST_RUNGS = 6
SMALLEST_PART = 4  # latents: half of the overlap of a quarter would be no frame and no pixel of 8
SAME_AGAIN = "done again, all memory given back"  # what is recorded where nothing was left to give
SMALLEST_CHUNK = 512  # smaller ones make 8-bit weights wide more often than they multiply with them


@dataclass(frozen=True)
class Rung:
    """The next arrangement, what is said of it, and what a file that came of it says."""

    arrangement: Arrangement
    change: str
    record: str


def next_rung(now: Arrangement, tokens: int) -> Rung | None:
    """The step down for a denoise step over `tokens` that ran out of memory; None where nothing is left to give."""
    return next(_rungs(now, tokens), None)


def _rungs(now: Arrangement, tokens: int) -> Iterator[Rung]:
    tiers, chunk = now.tiers, min(now.token_chunk, tokens)
    if tiers is not None and tiers.resident:
        kept = tiers.resident // 2 if 2 * tiers.resident > tiers.total else 0
        fewer = TierCounts(resident=kept, host=tiers.host, disk=tiers.disk + tiers.resident - kept)
        record = f"resident blocks {tiers.resident} -> {kept}"
        yield Rung(replace(now, tiers=fewer), f"with {kept} of {tiers.total} blocks on the device", record)
    if chunk > SMALLEST_CHUNK:
        smaller = max(SMALLEST_CHUNK, chunk // 4)
        change = f"with {smaller} tokens at a time (rounds differently)"
        yield Rung(replace(now, token_chunk=smaller), change, f"token_chunk {chunk} -> {smaller}")
    if tiers is not None and tiers.host:
        on_disk = TierCounts(disk=tiers.host + tiers.disk)
        yield Rung(replace(now, tiers=on_disk), "with no blocks in host memory", f"host blocks {tiers.host} -> 0")


@dataclass(frozen=True)
class TileWay:
    """How a tile is decoded: `lean` in chunks of time, `parts` cut into smaller tiles that are blended."""

    lean: bool = False
    parts: TileSpec | None = None


@dataclass(frozen=True)
class TileRung:
    """The next way, what is said of it, and what a video that came of it says."""

    way: TileWay
    change: str
    record: str


def next_way(now: TileWay, tile: Sequence[int]) -> TileRung | None:
    """The step down for a tile of latents (frames, rows, columns) that ran out of memory; None where none is left.

    The tile keeps its size and place, so that its neighbours need not know; its parts blend inside of it.
    """
    if not now.lean:
        change = "in chunks of time (the same pixels up to rounding)"
        return TileRung(replace(now, lean=True), change, "tile whole -> in chunks of time")
    frames, rows, columns = tile if now.parts is None else (now.parts.frames, now.parts.height, now.parts.width)
    if max(frames, rows, columns) <= SMALLEST_PART:
        return None
    # Space first: a tile that is half as high and half as wide blends at places where no one looks for a cut in time.
    sides = [max(SMALLEST_PART, -(-side // 2)) for side in (rows, columns)]
    length = frames if now.parts is None else max(SMALLEST_PART, -(-frames // 2))
    parts = TileSpec(frames=length, height=sides[0], width=sides[1])
    size = f"{length}x{sides[0]}x{sides[1]}"
    record = f"tile {frames}x{rows}x{columns} -> parts of {size}"
    return TileRung(replace(now, parts=parts), f"in parts of {size} latents (slightly other pixels)", record)
