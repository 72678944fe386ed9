"""Tries launch settings of one kernel on one card, ranked by their static bound: where an entry of tuning comes from.

    python -m hvlite.kernels.aot.search scaled_mm int8_mm --capability 86 \\
        --tile BM=64,128 --tile BN=128,256 --warps 4,8 --stages 2,3,4

Tiles that are not named stay as they are. What spills or does not fit is left out, and counted.
"""

from __future__ import annotations

import argparse
import itertools
import sys
from collections.abc import Iterator, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from .. import tuning
from ..launch import CompileCase, Launch
from .table import default_cache
from .worker import rows


def candidates(start: Launch, tiles: dict[str, list[int]], warps: list[int], stages: list[int]) -> Iterator[Launch]:
    """Every combination of what is given, the rest as in `start`."""
    for sizes in itertools.product(*tiles.values()):
        changed = {**start.tiles, **dict(zip(tiles, sizes, strict=True))}
        for count, depth in itertools.product(warps or [start.num_warps], stages or [start.num_stages]):
            yield Launch(changed, count, depth, "tried")


def cases_with(module: Any, kernel: str, capability: int, launch: Launch) -> list[CompileCase]:
    """The module's cases as they would be if this were the kernel's entry."""
    kept = tuning.LAUNCHES
    entries = {**kept[kernel], capability: launch}
    try:
        tuning.LAUNCHES = {**kept, kernel: entries}
        tuning.launch_for.cache_clear()
        return [case for case in module.compile_cases(capability) if case.launch is launch]
    finally:
        tuning.LAUNCHES = kept
        tuning.launch_for.cache_clear()


def search(module: str, kernel: str, capability: int, grid: Sequence[Launch], cache: Path) -> Iterator[dict[str, Any]]:
    """A row for every case and launch."""
    loaded = import_module(f"..{module}", __package__)
    for launch in grid:
        yield from rows(cases_with(loaded, kernel, capability, launch), cache)


def ranked(found: Sequence[dict[str, Any]]) -> list[str]:
    """A line for every row without a problem, the highest bound first, and one that says how many had problems."""
    good = sorted((row for row in found if not row["problem"]), key=lambda row: -(row["bound_tops"] or 0))
    lines = [
        f"{row['bound_tops'] or 0:7.1f} TOPS  {row['launch']:>24}  {row['registers']:3} registers  "
        f"{row['shared_bytes']:7,} B  {row['blocks_per_sm']} blocks  {row['kernel']}"
        for row in good
    ]
    return [*lines, f"{len(found) - len(good)} of {len(found)} have a problem"]


def main(arguments: Sequence[str]) -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("module", help="joint_attention")
    parser.add_argument("kernel", help="its name in the tuning table")
    parser.add_argument("--capability", type=int, required=True)
    parser.add_argument("--tile", action="append", default=[], metavar="NAME=N,N")
    parser.add_argument("--warps", default="", metavar="N,N")
    parser.add_argument("--stages", default="", metavar="N,N")
    chosen = parser.parse_args(arguments)
    tiles = {name: _numbers(sizes) for name, _, sizes in (each.partition("=") for each in chosen.tile)}
    start = tuning.launch_for(chosen.kernel, chosen.capability)
    grid = list(candidates(start, tiles, _numbers(chosen.warps), _numbers(chosen.stages)))
    found = list(search(chosen.module, chosen.kernel, chosen.capability, grid, default_cache()))
    sys.stdout.write("\n".join(ranked(found)) + "\n")


def _numbers(text: str) -> list[int]:
    return [int(each) for each in text.split(",") if each]


if __name__ == "__main__":
    main(sys.argv[1:])
