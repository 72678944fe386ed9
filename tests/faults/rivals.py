"""Damage that comes from outside a run: a second run in the same folder, other settings, and bits that rot."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

from conversions import Conversion, below_out, convert_options, planned_files, stopped_tree
from scenarios import Counts, Tree, differences, read_tree, recover, write_fresh

from hvlite.errors import CheckpointError, ConfigError
from hvlite.quantize.convert import Progress, run_quantize
from hvlite.quantize.verify import run_verify


def run_beside(conversion: Conversion, base: Path) -> list[str]:
    """A second run while the first is at work: it is refused, and the first does not notice."""
    folder = write_fresh(base, conversion.start)
    options = convert_options(conversion.source, folder, **conversion.options)
    wrong: list[str] = []

    def interfere(progress: Progress) -> None:
        if progress.kind == "file" and progress.files_done == 2:
            try:
                run_quantize(options)
            except ConfigError as error:
                wrong.extend(
                    [] if "another run (process" in error.message else [f"refused for another reason: {error}"]
                )
            else:
                wrong.append("two runs wrote into one folder")

    run_quantize(options, interfere)
    return wrong + differences(read_tree(folder / "out"), conversion.wanted)


def other_settings(conversion: Conversion, base: Path) -> list[str]:
    """A stopped run is not gone on with by a command with other settings, and stays as it was."""
    base = write_fresh(base, {})
    before = stopped_tree(conversion.source, base / "stopped", 3, transformer="int8")
    try:
        conversion.run(base / "stopped")
    except ConfigError as error:
        changed = differences(read_tree(base / "stopped"), before)
        return changed + ([] if "other settings" in error.message else [f"refused for another reason: {error}"])
    return ["a run took over the files of one with other settings"]


def rivals(conversion: Conversion, base: Path) -> Counts:
    counts = Counts()
    counts.add("run beside", run_beside(conversion, base))
    counts.add("other settings", other_settings(conversion, base))
    return counts


def rot(tree: Tree, draw: random.Random) -> tuple[str, Tree]:
    """The tree with one bit flipped, every file being as likely as the next; and that file's name."""
    name = draw.choice(sorted(name for name, content in tree.items() if content))
    content = bytearray(tree[name])
    content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
    return name, {**tree, name: bytes(content)}


def rot_journalled(
    conversion: Conversion, base: Path, flips: int, *, until: str | None = None, seed: int = 0
) -> Counts:
    """A bit flips in a stopped run's files, or in its journal: the next run must make up for it."""
    stopped = stopped_tree(conversion.source, write_fresh(base, {}) / "stopped", planned_files(conversion.wanted))
    stopped.pop("out/.quantize/lock")
    draw, counts = random.Random(seed), Counts()
    for _ in range(flips):
        name, tree = rot(stopped, draw)
        folder = write_fresh(base, tree)
        wrong = [
            line for line in recover(conversion, base, folder) if "were kept" not in line
        ]  # after a damaged line none are
        counts.add("flip", [f"a bit flipped in {name}: {line}" for line in wrong])
        if until and any(until in line for line in counts.violations):
            break
    return counts


def rot_finished(conversion: Conversion, base: Path, flips: int, seed: int = 0) -> Counts:
    """A bit flips in a finished folder: `verify` must find it and name the file."""
    draw, counts = random.Random(seed), Counts()
    for _ in range(flips):
        name, tree = rot(below_out(conversion.wanted), draw)
        problems = _verify(write_fresh(base, tree) / "out")
        found = any(name.removeprefix("out/") in problem for problem in problems)
        counts.add("flip", [] if found else [f"a bit flipped in {name} is not found: {problems}"])
    return counts


def _verify(folder: Path) -> tuple[Any, ...]:
    try:
        return run_verify(folder).problems
    except CheckpointError as error:
        return (error.message,)
