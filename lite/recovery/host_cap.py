"""The cap on host memory, looked at between two pieces of work: what no plan foresees must not end in a swap storm.

The system would rather slow everything down, or kill the process without a word, than fail an allocation.
"""

from __future__ import annotations

from dataclasses import dataclass

import psutil  # type: ignore[import-untyped]  # it ships no types

from ...errors import MemoryLimitError
from ..planning.limits import gib

GIB = 1 << 30
LESS = "; --tier=disk holds the least, where the model is an hvlite folder"


class HostCapError(MemoryLimitError):
    """The process holds more host memory than it may; under a cap of `enough_bytes` it would have gone on."""

    def __init__(self, message: str, *, hint: str, enough_bytes: int) -> None:
        super().__init__(message, hint=hint)
        self.enough_bytes = enough_bytes


@dataclass(frozen=True)
class HostCap:
    """The most that this process may hold; `given`: by --ram-limit, else it is the default."""

    limit_bytes: int
    given: bool

    def check(self, where: str, kept: str) -> None:
        """HostCapError where the process holds more; `where`, `kept`: what is done and what is safe."""
        held = resident_bytes()
        if held <= self.limit_bytes:
            return
        whose = "given by --ram-limit" if self.given else "the default of --ram-limit"
        limit = f"the limit is {gib(self.limit_bytes)}, {whose}"
        raise HostCapError(
            f"{where} this process holds {gib(held)} of memory, {limit}; {kept}",
            hint=f"go on with a higher --ram-limit{LESS}",
            enough_bytes=(held // GIB + 2) * GIB,
        )


def resident_bytes() -> int:
    """What this process holds in memory now."""
    return int(psutil.Process().memory_info().rss)
