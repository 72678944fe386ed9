"""benchmarks/README.md, made of the committed results and nothing else.

    python -m hvlite.benchmarks.page            # write it
    python -m hvlite.benchmarks.page --check    # exit code 1 where it is not what the results say

A file in results/ is one run of `hvlite bench --output`; the newest of each device is shown. Cards that people own and
that nobody has measured yet are listed as open.
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


def read_all(folder: Path) -> dict[str, BenchFile]:
    """The newest results of each device, by the device's name. Other JSON files there are not ours to read."""
    found: dict[str, BenchFile] = {}
    for path in sorted(folder.glob("*.json")):
        if SCHEMA.encode() not in path.read_bytes()[:64]:
            continue
        made = read_results(path)
        device = str(made.machine["device"])
        if device not in found or found[device].made <= made.made:
            found[device] = made
    return dict(sorted(found.items()))


def page(results: dict[str, BenchFile]) -> str:
    """The page."""
    return "\n".join([HEAD, *_overview(results), *_devices(results)]).rstrip() + "\n"


def _overview(results: dict[str, BenchFile]) -> Iterator[str]:
    """What is there, and what is open."""
    rows = [["device", *PARTS]]
    for device, made in results.items():
        rows.append([device, *(str(len(made.part(name)) or "") for name in PARTS)])
    measured = "\n".join(results).lower()
    rows += [[name, *("open" for _ in PARTS)] for name in WANTED if name in GPUS and name.lower() not in measured]
    yield "## Devices"
    yield ""
    yield "Cases measured in each part."
    yield ""
    yield from markdown(rows)
    yield ""


def _devices(results: dict[str, BenchFile]) -> Iterator[str]:
    for device, made in results.items():
        yield f"## {device}"
        yield ""
        yield f"{machine_line(made)}."
        yield ""
        for name in dict.fromkeys(result.part for result in made.results):
            found = made.part(name)
            yield f"### {name}"
            yield ""
            yield from markdown(part_rows(found))
            yield ""
            yield f"Gate: {'; '.join(dict.fromkeys(result.gate for result in found))}."
            yield ""
        if made.not_run:
            yield "Not run here:"
            yield ""
            yield from (f"- {each.part}: {each.reason}" for each in made.not_run)
            yield ""


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
