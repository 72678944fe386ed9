"""`hvlite bench compile`: every kernel compiled for every card, without one."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import Annotated, Any

import typer

from ..display import SafeLine
from ..errors import ConfigError, HvliteError
from ..kernels.launch import CAPABILITIES

PART = "compile"
PANEL = f"hvlite bench {PART}"

Capability = Annotated[
    list[int] | None,
    typer.Option(
        "--capability",
        metavar="N",
        help=f"Only for this compute capability: {', '.join(map(str, CAPABILITIES))}. May be repeated.",
        rich_help_panel=PANEL,
    ),
]
Only = Annotated[
    str,
    typer.Option("--only", metavar="TEXT", help="Only kernels whose name has this in it.", rich_help_panel=PANEL),
]


def bench_compile(capabilities: Sequence[int], only: str, *, json_lines: bool) -> None:
    """Print the table. HvliteError where a kernel does not fit a card, MissingPartError without Triton."""
    for each in capabilities:
        if each not in CAPABILITIES:
            raise ConfigError(f"--capability {each}: known are {', '.join(map(str, CAPABILITIES))}")
    from ..benchmarks.bench_compile import compile_rows, problems, rows_text

    rows = compile_rows(capabilities, only, tell=_tell)
    if not rows:
        raise ConfigError(f"--only {only}: no kernel has such a name", hint="hvlite bench compile lists all")
    SafeLine(sys.stdout).write(json.dumps(rows) if json_lines else rows_text(rows))
    if found := problems(rows):
        raise HvliteError(f"{len(found)} of {len(rows)} kernels do not fit: {found[0]}", hint="please report it")


def _tell(row: dict[str, Any]) -> None:
    SafeLine(sys.stderr).write(f"{row['kernel']} for sm_{row['capability']}: {row['problem'] or 'fits'}")
