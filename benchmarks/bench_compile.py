"""What every kernel needs of every card, by compiling it ahead of time: no GPU takes part.

    python -m hvlite.benchmarks.bench_compile          # compile, write results/compile.json and the table of the docs
    python -m hvlite.benchmarks.bench_compile --docs   # the table alone, from the committed results
    python -m hvlite.benchmarks.bench_compile --check  # exit code 1 where the table is not what the results say

`hvlite bench compile` prints the same rows. The bound is a model's (kernels/aot/static_bound.py), not a measurement.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from ..files import read_json, write_atomic
from ..kernels.aot.static_bound import CARDS
from ..kernels.aot.table import compile_table
from ..kernels.launch import CAPABILITIES
from ..kernels.triton_state import require_triton
from .tables import aligned, markdown, replaced_between

Row = dict[str, Any]
RESULTS = Path(__file__).parent / "results" / "compile.json"
DOCS = Path(__file__).parent.parent / "docs" / "kernels.md"
BEGIN, END = "<!-- compile table: begin -->", "<!-- compile table: end -->"
PEER = "sageattention"


def compile_rows(
    capabilities: Sequence[int] = (), only: str = "", tell: Callable[[Row], None] = lambda row: None
) -> list[Row]:
    """A row for every kernel and card; all of them where nothing is chosen. Raises MissingPartError without Triton."""
    return compile_table(capabilities, only, tell=tell)


def problems(rows: Sequence[Row]) -> list[str]:
    """What is wrong, a line for each row with a problem."""
    return [f"{row['kernel']}, sm_{row['capability']}: {row['problem']}" for row in rows if row["problem"]]


def rows_text(rows: Sequence[Row]) -> str:
    """The rows as a table for a terminal, with what is wrong below it."""
    head = ["kernel", "sm", "launch", "registers", "shared", "spills", "blocks/SM", "bound", f"x {PEER}"]
    body = [[row["kernel"], f"{row['capability']}", row["launch"], *_cells(row, rows)] for row in rows]
    return "\n".join([*aligned([head, *body]), "", *(problems(rows) or ["no problem"])])


def _cells(row: Row, rows: Sequence[Row]) -> list[str]:
    if "registers" not in row:
        return ["", "", "", "", "", ""]
    bound = row["bound_tops"]
    return [
        f"{row['registers']}",
        f"{row['shared_bytes']:,}",
        f"{row['spill_bytes']}",
        f"{row['blocks_per_sm']}",
        "" if bound is None else f"{bound:.0f} TOPS",
        _ratio(row, rows),
    ]


def _ratio(row: Row, rows: Sequence[Row]) -> str:
    """The bound over that of sageattention's kernel on the same card, for attention."""
    peers = [each for each in rows if each["kernel"].startswith(PEER) and each["capability"] == row["capability"]]
    ours = "attention" in row["kernel"] and row not in peers and "d64" not in row["kernel"]  # its heads are of 128
    if not ours or not peers or not row.get("bound_tops"):
        return ""
    return f"{row['bound_tops'] / peers[0]['bound_tops']:.2f}"


# The table of the docs: a line for each kernel, a column for each card.


def docs_text(made: dict[str, Any]) -> str:
    """The tables for docs/kernels.md from results/compile.json: bounds of attention and products, then resources."""
    rows = made["rows"]
    lines = [f"Triton {made['triton']}; `python -m hvlite.benchmarks.bench_compile` makes these tables.", ""]
    lines += ["Static bound in TOPS; for attention in brackets its ratio to sageattention's on the same card.", ""]
    lines += markdown([_head(), *_pivot(rows, _bound_cell)])
    lines += ["", "Registers a thread / KiB of shared memory / blocks that fit on a multiprocessor.", ""]
    lines += markdown([_head(), *_pivot(rows, _resource_cell)])
    return "\n".join([*lines, "", *(problems(rows) or ["No kernel spills registers or exceeds a card's limits."])])


def _head() -> list[str]:
    return ["kernel", *(f"{CARDS[each].name} (sm_{each})" for each in CAPABILITIES)]


def _pivot(rows: Sequence[Row], cell: Callable[[Row, Sequence[Row]], str]) -> Iterator[list[str]]:
    for name in dict.fromkeys(row["kernel"] for row in rows):
        found = {row["capability"]: cell(row, rows) for row in rows if row["kernel"] == name}
        if any(found.values()):
            yield [name, *(found.get(each, "") for each in CAPABILITIES)]


def _bound_cell(row: Row, rows: Sequence[Row]) -> str:
    if not row.get("bound_tops"):
        return ""
    ratio = _ratio(row, rows)
    return f"{row['bound_tops']:.0f}" + (f" ({ratio}x)" if ratio else "")


def _resource_cell(row: Row, rows: Sequence[Row]) -> str:
    if "registers" not in row:
        return "does not compile"
    return f"{row['registers']} / {row['shared_bytes'] / 1024:.0f} / {row['blocks_per_sm']}"


def with_table(text: str, table: str) -> str:
    """A page with what is between the two marks replaced."""
    return replaced_between(text, BEGIN, END, table)


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--docs", action="store_true", help="compile nothing, write the table of the docs")
    parser.add_argument("--check", action="store_true", help="compile and write nothing, compare")
    chosen = parser.parse_args()
    if not chosen.docs and not chosen.check:
        made = {"schema": "hvlite-compile", "triton": require_triton("the compile table"), "rows": compile_rows()}
        write_atomic(RESULTS, (json.dumps(made, indent=1) + "\n").encode())
    page = DOCS.read_text(encoding="utf-8")
    table = with_table(page, docs_text(read_json(RESULTS)))
    if chosen.check:
        return int(page != table)
    write_atomic(DOCS, table.encode())
    return 0


if __name__ == "__main__":
    sys.exit(main())
