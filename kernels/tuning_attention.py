"""Launch settings of the attention kernels, by kernel and compute capability."""

from __future__ import annotations

from .launch import Launch

LAUNCHES: dict[str, dict[int, Launch]] = {}
