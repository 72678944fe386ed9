"""Runs the parts of `hvlite bench` within a limit of time. A part is a module with

    def run(options: BenchOptions) -> Iterator[Result]

which gives each result as it is made, looks at `options.seconds_left` between cases and leaves out what does not fit.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path

import torch

from ..errors import HvliteError, UnsupportedDeviceError
from ..lite.device import probe_device
from ..lite.planning.limits import parse_bytes
from ..lite.planning.types import CONTEXT_BYTES
from .machine import describe_machine, installed_versions, source_commit
from .part_list import PARTS
from .results import BenchFile, GateError, NotRun, Result, Timeline

Tell = Callable[[str], None]


@dataclass(frozen=True)
class BenchOptions:
    """What a part may use. `work` is a folder for files, removed at the end; `until` a time of time.monotonic()."""

    device: torch.device
    until: float
    work: Path
    vram_limit_bytes: int | None = None
    skipped: list[NotRun] = field(default_factory=list)
    timelines: list[Timeline] = field(default_factory=list)

    @property
    def seconds_left(self) -> float:
        """How long the part may still take."""
        return self.until - time.monotonic()

    def skip(self, part: str, reason: str) -> None:
        """Say that something was left out, and why."""
        self.skipped.append(NotRun(part=part, reason=reason))


def run_suite(
    names: Sequence[str],
    *,
    device: str = "auto",
    threads: int | None = None,
    minutes: float = 10.0,
    vram_limit: str | None = None,
    tell: Tell = lambda text: None,
) -> Iterator[BenchFile]:
    """Run the parts one after the other; yields an empty file first, then what there is after every result."""
    info = probe_device(device)
    limit = None if vram_limit is None else parse_bytes("--vram-limit", vram_limit)
    cap_device(info.device, limit)
    if threads is not None:
        torch.set_num_threads(threads)
    made = new_file(info.device, {"minutes": minutes, "vram_limit_bytes": limit})
    yield made
    ends = _deadlines(names, time.monotonic(), minutes * 60)
    with tempfile.TemporaryDirectory(prefix="hvlite-bench-") as work:
        for name, until in zip(names, ends, strict=True):
            options = BenchOptions(info.device, until, Path(work), limit)
            for result in _run_part(name, options, tell):
                made = replace(made, results=(*made.results, result))
                yield made
            made = replace(
                made,
                not_run=(*made.not_run, *options.skipped),
                timelines=(*made.timelines, *options.timelines),
            )
            yield made


def new_file(device: torch.device, settings: dict[str, str | int | float | bool | None]) -> BenchFile:
    """A file without results: where and with what they will be made."""
    return BenchFile(
        made=datetime.now(UTC).strftime("%Y-%m-%d"),
        machine=describe_machine(device),
        versions=installed_versions(),
        commit=source_commit(),
        settings=settings,
    )


def cap_device(device: torch.device, limit_bytes: int | None) -> None:
    """Make a larger card behave as a smaller one: torch's allocator refuses what is above the limit.

    The limit is of the process, as that of `hvlite generate` is: a smaller card has the driver's context in it too.
    """
    if limit_bytes is None:
        return
    if device.type != "cuda":
        raise UnsupportedDeviceError("--vram-limit caps a CUDA device; this is the CPU", hint="leave --vram-limit out")
    total = torch.cuda.get_device_properties(device).total_memory
    allowed = max(0, limit_bytes - CONTEXT_BYTES)
    torch.cuda.set_per_process_memory_fraction(min(1.0, allowed / total), device)


def _run_part(name: str, options: BenchOptions, tell: Tell) -> Iterator[Result]:
    """The results of a part. What cannot run here is left out with the reason; a wrong result ends the part."""
    if options.seconds_left <= 0:
        options.skip(name, "no time was left")
        return
    tell(f"{name} ...")
    began = time.monotonic()
    try:
        for result in import_module(f".{PARTS[name].module}", __package__).run(options):
            tell(f"{name}: {result.case}")
            yield result
    except HvliteError as error:
        wrong = isinstance(error, GateError)
        options.skipped.append(NotRun(part=name, reason=error.message if wrong else str(error), wrong=wrong))
    tell(f"{name}: {time.monotonic() - began:.0f} s")


def _deadlines(names: Sequence[str], start: float, seconds: float) -> list[float]:
    """When each part must be through: time that one leaves over goes to the next."""
    total, end, ends = sum(PARTS[name].share for name in names), start, []
    for name in names:
        end += seconds * PARTS[name].share / total
        ends.append(end)
    return ends
