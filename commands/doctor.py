"""`hvlite doctor`: what this machine can do, what is wrong, and how to put it right."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from ..errors import InterruptedRunError
from ..lite.durations import counted
from . import options as opt
from .running import say

DOCTOR_HELP = """Say what this machine can do and what is wrong, each with the command that helps.

hvlite doctor

hvlite doctor --model hunyuan-fp8 --device cuda --json

It compiles and runs a kernel, measures the disk and the link to the card, and makes a tiny video: under a minute. The
exit code is 0 where a video can be made, else the one that making it would end with."""

Folder = Annotated[
    Path,
    typer.Option("--save-path", metavar="DIR", help="The folder that videos will go to.", rich_help_panel=opt.OUTPUT),
]


def doctor(
    model: opt.Model = None,
    save_path: Folder = Path(),
    device: opt.Device = "auto",
    json_lines: opt.JsonLines = False,
    debug: opt.Debug = False,
) -> None:
    """See DOCTOR_HELP."""
    from ..lite.doctor.examination import as_json, examine_all, line_of, verdict
    from ..lite.doctor.finding import Patient, exit_code

    watch = _Watch(quiet=json_lines)
    findings = []
    try:
        for finding in examine_all(Patient(device, model, save_path), watch.show):
            watch.clear()
            findings.append(finding)
            if not json_lines:
                say(line_of(finding))
    except KeyboardInterrupt:
        watch.clear()
        raise InterruptedRunError(
            f"stopped while examining {watch.name or 'the first thing'}; {counted(len(findings), 'finding')} so far",
            hint="the same command examines everything again",
        ) from None
    say(json.dumps(as_json(findings)) if json_lines else verdict(findings))
    raise typer.Exit(exit_code(findings))


class _Watch:
    """On a terminal, what is examined now; gone before the next finding is printed."""

    def __init__(self, *, quiet: bool) -> None:
        self.name = ""
        self._on = not quiet and sys.stderr.isatty()

    def show(self, name: str) -> None:
        self.name = name
        if self._on:
            print(f"      {name} ...", end="", file=sys.stderr, flush=True)

    def clear(self) -> None:
        if self._on:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)
