"""The cap on host memory, looked at between two pieces of work: what no plan foresees must not end in a swap storm.

The system would rather slow everything down, or kill the process without a word, than fail an allocation.
"""

from __future__ import annotations

import psutil  # type: ignore[import-untyped]  # it ships no types

from ...errors import MemoryLimitError
from ..planning.limits import gib


def resident_bytes() -> int:
    """What this process holds in memory now."""
    return int(psutil.Process().memory_info().rss)


def check_host_cap(limit_bytes: int, where: str, kept: str) -> None:
    """MemoryLimitError where the process holds more than its cap; `where`, `kept`: what is done and what is safe."""
    held = resident_bytes()
    if held > limit_bytes:
        raise MemoryLimitError(
            f"{where} this process holds {gib(held)} of memory, the limit is {gib(limit_bytes)}; {kept}",
            hint="go on with --resume and a higher --ram-limit, or with --tier disk",
        )
