"""`hvlite bench`: measures this machine. The work, the tables and the results live in benchmarks/."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..benchmarks.part_list import PARTS, choose_parts
from ..display import SafeLine
from ..errors import InterruptedRunError
from . import bench_accuracy as accuracy
from . import bench_compile as compiled
from . import options as opt
from .paths import require_path, require_writable

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import AbstractContextManager

    from ..benchmarks.results import BenchFile

DEFAULT_OUTPUT = Path("hvlite-bench.json")

BENCH_HELP = f"""Measure this machine: what fits into --minutes, with random weights of the real model's shapes.

[bold]hvlite bench[/bold] runs everything and writes {DEFAULT_OUTPUT}, with plots beside it.

hvlite bench stream vae --minutes 5 --vram-limit 12GiB --output mine.json

hvlite bench --compare before.json after.json

hvlite bench compile --capability 86 --only attention

Nothing is timed before its result was found right. Parts: {", ".join(PARTS)}. By itself:
{compiled.PART}, which compiles the kernels for cards that are not here and takes minutes on a CPU, and
{accuracy.PART}, how exact each form of attention is."""

PartNames = Annotated[list[str] | None, typer.Argument(metavar="PART", help="Only these parts.")]
Minutes = Annotated[float, typer.Option("--minutes", metavar="N", min=0.1, help="About how long it may take.")]
OutputFile = Annotated[
    Path | None, typer.Option("--output", "-o", metavar="FILE", help="Results as JSON, with PNG plots beside it.")
]
Compare = Annotated[
    tuple[Path, Path] | None,
    typer.Option("--compare", metavar="A B", help="Measure nothing: put two files of results side by side."),
]
VramLimit = Annotated[
    str | None, typer.Option("--vram-limit", metavar="AMOUNT", help="Emulate a smaller card, as in 12GiB.")
]


def bench(
    part: PartNames = None,
    minutes: Minutes = 10.0,
    output: OutputFile = None,
    compare: Compare = None,
    vram_limit: VramLimit = None,
    capability: compiled.Capability = None,
    only: compiled.Only = "",
    device: opt.Device = "auto",
    threads: opt.Threads = None,
    json_lines: opt.JsonLines = False,
    debug: opt.Debug = False,
) -> None:
    """See BENCH_HELP."""
    if compare is not None:
        for path in compare:
            require_path(path, "--compare")
        _compare(*compare, json_lines=json_lines)
        return
    if part == [compiled.PART]:
        compiled.bench_compile(capability or (), only, json_lines=json_lines)
        return
    if part == [accuracy.PART]:
        accuracy.bench_accuracy(device, threads, json_lines=json_lines)
        return
    names = choose_parts(part or ())
    output = output or (None if part else DEFAULT_OUTPUT)
    if output is not None:
        require_writable(output, "--output")
    from ..benchmarks.suite import run_suite

    suite = run_suite(
        names, device=device, threads=threads, minutes=minutes, vram_limit=vram_limit, tell=SafeLine(sys.stderr).write
    )
    with _to_oneself(device):
        made = _run(suite, output)
    _print(made, json_lines=json_lines)
    made.require_right()


def _to_oneself(device: str) -> AbstractContextManager[None]:
    """Nothing else of hvlite runs on the card meanwhile: it would be measured too. Waits for it."""
    from ..display import PlainDisplay
    from ..lite.interrupt import StopFlag
    from ..lite.launch import device_to_oneself

    return device_to_oneself(device, "bench", PlainDisplay(sys.stderr).show, StopFlag(), wait=True)


def _run(suite: Iterator[BenchFile], output: Path | None) -> BenchFile:
    """The whole run; the file grows with every result, so that what was measured is kept whatever happens."""
    from ..benchmarks.results import write_results

    made = next(suite)
    try:
        for made in suite:
            if output is not None:
                write_results(output, made)
    except KeyboardInterrupt:
        kept = f"; {len(made.results)} results are in {output}" if output else ""
        raise InterruptedRunError(f"stopped{kept}", hint="the same command starts again") from None
    if output is not None:
        _plot(made, output)
    return made


def _plot(made: BenchFile, output: Path) -> None:
    from ..benchmarks.plots import write_plots

    for path in write_plots(made, output):
        SafeLine(sys.stderr).write(f"{path}")


def _print(made: BenchFile, *, json_lines: bool) -> None:
    from ..benchmarks.tables import results_text

    SafeLine(sys.stdout).write(json.dumps(made.to_json()) if json_lines else results_text(made))


def _compare(before: Path, after: Path, *, json_lines: bool) -> None:
    from ..benchmarks.compare import compare_results, comparison_text
    from ..benchmarks.results import read_results

    rows = compare_results(read_results(before), read_results(after))
    SafeLine(sys.stdout).write(json.dumps(rows) if json_lines else comparison_text(rows))
