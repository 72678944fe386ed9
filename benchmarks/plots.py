"""The plots of a run of `hvlite bench`, as PNG files beside its JSON."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from ..files import write_atomic
from .results import BenchFile

PLOTS: dict[str, Callable[[BenchFile], bytes | None]] = {}


def write_plots(made: BenchFile, output: Path) -> list[Path]:
    """Draw what the results allow, beside `output`; returns the files. Raises DiskError."""
    paths = []
    for name, draw in PLOTS.items():
        png = draw(made)
        if png is not None:
            paths.append(output.with_name(f"{output.stem}.{name}.png"))
            write_atomic(paths[-1], png)
    return paths
