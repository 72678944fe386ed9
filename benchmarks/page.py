"""benchmarks/README.md, made of the committed results and nothing else.

    python -m hvlite.benchmarks.page            # write it
    python -m hvlite.benchmarks.page --check    # exit code 1 where it is not what the results say

A file in results/ is one run of `hvlite bench --output`; of each part the newest of each device is shown. Cards that
people own and that nobody has measured yet are listed as open.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

from ..lite.planning.gpus import GPUS
from .part_list import PARTS
from .results import SCHEMA, BenchFile, read_results
from .tables import machine_line, markdown, part_rows

FOLDER = Path(__file__).parent
RESULTS, PAGE = FOLDER / "results", FOLDER / "README.md"
WANTED = ("RTX 3060", "RTX 3090", "RTX 4060 Ti 16GB", "RTX 4070", "RTX 4090", "RTX 5070 Ti", "RTX 5090", "H100", "H200")

HEAD = """# Measured

This page is made by `python -m hvlite.benchmarks.page` from the files in `results/`; no number in it was typed. A time
is the median of several runs after a warm-up, taken only after the result was found right (the gate). Times of
different machines, and of busy ones, compare badly; ratios inside one run compare well.

To add your card: `hvlite bench --output benchmarks/results/NAME.json` (10 minutes, no weights needed), then
`python -m hvlite.benchmarks.page`. `hvlite bench --compare A.json B.json` puts two files side by side.
"""


Measured = dict[str, dict[str, BenchFile]]  # device -> part -> the file that has it


def read_all(folder: Path) -> Measured:
    """The newest results of every part on each device. Other JSON files there are not ours to read."""
    found: Measured = {}
    for path in sorted(folder.glob("*.json")):
        if SCHEMA.encode() not in path.read_bytes()[:64]:
            continue
        made = read_results(path)
        parts = found.setdefault(str(made.machine["device"]), {})
        for name in dict.fromkeys(result.part for result in made.results):
            if name not in parts or parts[name].made <= made.made:
                parts[name] = made
    return dict(sorted(found.items()))


def page(measured: Measured) -> str:
    """The page."""
    return "\n".join([HEAD, *_overview(measured), *_devices(measured)]).rstrip() + "\n"


def _overview(measured: Measured) -> Iterator[str]:
    """What is there, and what is open."""
    rows = [["device", *PARTS]]
    for device, parts in measured.items():
        rows.append([device, *(str(len(parts[name].part(name))) if name in parts else "" for name in PARTS)])
    known = "\n".join(measured).lower()
    rows += [[name, *("open" for _ in PARTS)] for name in WANTED if name in GPUS and name.lower() not in known]
    yield "## Devices"
    yield ""
    yield "Cases measured in each part."
    yield ""
    yield from markdown(rows)
    yield ""


def _devices(measured: Measured) -> Iterator[str]:
    for device, parts in measured.items():
        yield f"## {device}"
        yield ""
        for name in sorted(parts, key=[*PARTS].index):
            yield from _part(name, parts[name])


def _part(name: str, made: BenchFile) -> Iterator[str]:
    found = made.part(name)
    yield f"### {name}: {PARTS[name].about}"
    yield ""
    yield f"{machine_line(made)}."
    yield ""
    yield from markdown(part_rows(found))
    yield ""
    yield f"Gate: {'; '.join(dict.fromkeys(result.gate for result in found))}."
    yield ""
    left_out = [each.reason for each in made.not_run if each.part == name]
    if left_out:
        yield from ("Not run here:", "", *(f"- {reason}" for reason in left_out), "")


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--check", action="store_true", help="write nothing, say whether the page is up to date")
    arguments = parser.parse_args()
    text = page(read_all(RESULTS))
    if arguments.check:
        return int(not PAGE.is_file() or PAGE.read_text(encoding="utf-8") != text)
    PAGE.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
