"""Launch settings of the kernels around the linear layers and of the VAE, by kernel and compute capability."""

from __future__ import annotations

from .launch import Launch

LAUNCHES: dict[str, dict[int, Launch]] = {}
