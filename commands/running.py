"""What the commands that make videos share: the run with its display, the plan of a dry run, data on stdout."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from ..display import printable

if TYPE_CHECKING:
    from ..display import Display
    from ..lite.interrupt import StopFlag
    from ..lite.request.preflight import Prepared


def run(prepared: Sequence[Prepared], notes: Sequence[str], *, json_lines: bool, dry_run: bool) -> None:
    """Make the videos, or only print what would be made."""
    if dry_run:
        for each in prepared:
            print_plan(each, notes, json_lines=json_lines)
        return
    from ..lite.events import Note
    from ..lite.launch import make_videos

    with watched(json_lines=json_lines) as (display, stop):
        for text in notes:
            display.show(Note("info", text))
        outputs = make_videos(prepared, display.show, stop)
    if not json_lines:
        for output in outputs:
            say(output)


def print_plan(prepared: Prepared, notes: Sequence[str], *, json_lines: bool) -> None:
    """The settings of a video that --dry-run does not make, and its memory; MemoryLimitError where it does not fit."""
    from ..lite.launch import plan_video
    from ..lite.planning.refusal import refusal
    from ..lite.planning.view import plan_json, plan_line

    request = prepared.request
    memory = plan_video(request)
    if not memory.fits:
        raise refusal(memory)
    if memory.machine.on_cpu and request.precision not in (None, "fp32"):
        notes = [*notes, f"--precision {request.precision}: a CPU computes in fp32"]
    plan = {
        "model": prepared.card.name,
        **request.config.to_json(),
        "output": str(request.output),
        "finished": prepared.before.done,
        "resumes_after_step": prepared.before.step,
        "needed_disk_bytes": prepared.needed_bytes,
    }
    if json_lines:
        say(json.dumps({"event": "plan", **plan, "memory": plan_json(memory), "notes": list(notes)}))
        return
    for note in notes:
        print(printable(note), file=sys.stderr)
    for name, value in plan.items():
        say(f"{name}: {value}")
    say(plan_line(memory))


@contextlib.contextmanager
def watched(*, json_lines: bool) -> Iterator[tuple[Display, StopFlag]]:
    """A display for the events of a run and the flag that Ctrl-C, SIGTERM and SIGHUP set."""
    from ..display import open_display
    from ..lite.interrupt import StopFlag

    with open_display(json_lines=json_lines) as display:
        stop = StopFlag(display.stopping)
        with stop.installed():
            yield display, stop


def say(text: object) -> None:
    """One piece of data on stdout, for people or as JSON."""
    print(printable(str(text)), flush=True)
