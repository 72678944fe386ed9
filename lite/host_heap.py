"""Memory that is freed goes back to the system, so that a process holds what the plan counts.

glibc keeps freed pieces of up to 32 MB for later, and maps or weights of that size do not fit into each other's places.
So a full-size VAE of 0.92 GiB took 0.33 GiB more to load, and a tile of it on a CPU up to 0.32 GiB more than planned.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable

MAPPED_FROM_BYTES = (
    4 << 20
)  # smaller pieces are recycled: mapping those as well took 5 to 13 % of a small decode's time
KEPT_AT_END_BYTES = 16 << 20
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h


def return_freed_memory() -> None:
    """From now on large pieces are mapped and unmapped one by one. Does nothing where the C library is not glibc."""
    mallopt = _of_glibc("mallopt")
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, MAPPED_FROM_BYTES)
        mallopt(_M_TRIM_THRESHOLD, KEPT_AT_END_BYTES)


def trim_heap() -> None:
    """Give back what is left of many small pieces: after a full-size NF4 language model that was 0.5 GiB."""
    trim = _of_glibc("malloc_trim")
    if trim is not None:
        trim(0)


def _of_glibc(name: str) -> Callable[..., int] | None:
    found: Callable[..., int] | None = getattr(ctypes.CDLL(None), name, None)
    return found
