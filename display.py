"""What a person or a program sees while a run works: a live display, plain lines without a terminal, or JSON lines.

Everything for people goes to stderr; JSON lines are data and go to stdout. A display never stops the work: where its
stream is closed it falls silent.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import sys
import time
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TextIO

from .lite.durations import duration
from .lite.events import Event, Finished, Note, Planned, StageDone, StageStarted, StepDone

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

STAGE_NAMES = {"embed": "reading the prompt", "denoise": "denoising", "decode": "decoding"}
STOPPING = "stopping after this step; press Ctrl-C again to leave at once"
PLAIN_INTERVAL_S = 1.0
RECENT_STEPS = 8
# C0 and C1 but for tab and line feed: a terminal obeys them. JSON has none of them; it escapes them itself.
CONTROLS = {code: f"\\x{code:02x}" for code in (*range(9), *range(11, 32), *range(128, 160))}


class Display(Protocol):
    """Takes the events of a run; `stopping` is called from a signal handler."""

    def show(self, event: Event) -> None:
        """Render one event."""

    def stopping(self) -> None:
        """Say that the run ends after the work in hand."""


@contextlib.contextmanager
def open_display(*, json_lines: bool) -> Iterator[Display]:
    """The display that fits: JSON lines where asked for, the live one on a terminal, plain lines elsewhere."""
    if json_lines:
        yield JsonDisplay(sys.stdout)
    elif not _is_terminal(sys.stderr):
        yield PlainDisplay(sys.stderr)
    else:
        with LiveDisplay() as live:
            yield live


class JsonDisplay:
    """One JSON object a line: `event` and the fields of the event."""

    def __init__(self, stream: TextIO) -> None:
        self._line = SafeLine(stream)

    def show(self, event: Event) -> None:
        """Write the event as one line."""
        name = re.sub(r"(?<!^)(?=[A-Z])", "_", type(event).__name__).lower()
        self._line.write(json.dumps({"event": name, **asdict(event)}, default=_plain))

    def stopping(self) -> None:
        """Say so on stderr: stdout may be in the middle of a line."""
        _write_now(STOPPING)


class PlainDisplay:
    """Lines for a log: one for a stage, one for a step but at most one a second."""

    def __init__(self, stream: TextIO) -> None:
        self._line = SafeLine(stream)
        self._pace = Pace()
        self._next_line = 0.0

    def show(self, event: Event) -> None:
        """Write the event as one line, or leave a step out that comes too soon after the last."""
        if isinstance(event, StageStarted):
            self._pace, self._next_line = Pace(), 0.0
            self._line.write(f"{stage_name(event.stage)} ...")
        elif isinstance(event, StepDone):
            self._step(event)
        else:
            self._line.write(describe(event))

    def stopping(self) -> None:
        """Say so at once."""
        _write_now(STOPPING)

    def _step(self, event: StepDone) -> None:
        left = self._pace.left_s(event)
        if time.monotonic() < self._next_line and event.index < event.total:
            return
        self._next_line = time.monotonic() + PLAIN_INTERVAL_S
        step = f"{stage_name(event.stage)}: {event.index} of {event.total}, {event.seconds:.2f} s"
        self._line.write(f"{step}, {duration(left)} left, {memory_in_use()}")


class LiveDisplay:
    """A line that moves for each stage: what is done, the time left and the memory in use."""

    def __init__(self) -> None:
        self._progress = _live_progress(self)
        self._task: TaskID | None = None
        self._pace = Pace()
        self.is_stopping = False

    def __enter__(self) -> LiveDisplay:
        self._progress.start()
        return self

    def __exit__(self, *exception: object) -> None:
        with contextlib.suppress(OSError):
            self._progress.stop()

    def show(self, event: Event) -> None:
        """Move the line of the stage, or write one that stays."""
        with contextlib.suppress(OSError):  # the terminal may be gone
            self._show(event)

    def stopping(self) -> None:
        """The moving line says it from its next refresh on."""
        self.is_stopping = True

    def _show(self, event: Event) -> None:
        if isinstance(event, StageStarted):
            self._pace = Pace()
            self._task = self._progress.add_task(stage_name(event.stage), total=event.total, left="")
        elif isinstance(event, StepDone) and self._task is not None:
            left = f"{duration(self._pace.left_s(event))} left"
            self._progress.update(self._task, completed=event.index, total=event.total, left=left)
        elif isinstance(event, StageDone) and self._task is not None:
            self._progress.remove_task(self._task)
            self._task = None
            self._progress.console.print(f"[green]✓[/] {_escaped(describe(event))}", highlight=False)
        elif isinstance(event, Note):
            style = "yellow" if event.level == "warning" else "dim"
            self._progress.console.print(f"[{style}]{_escaped(describe(event))}[/]", highlight=False)
        elif isinstance(event, Planned):
            self._progress.console.print(f"[dim]{_escaped(describe(event))}[/]", highlight=False)
        elif isinstance(event, Finished):
            self._progress.console.print(f"[bold green]✓[/] {_escaped(describe(event))}", highlight=False)


class Pace:
    """The time left, from the steps that were last done."""

    def __init__(self) -> None:
        self._recent: deque[float] = deque(maxlen=RECENT_STEPS)

    def left_s(self, event: StepDone) -> float:
        """Seconds until the stage is through, from the mean of the recent steps."""
        self._recent.append(event.seconds)
        return (event.total - event.index) * sum(self._recent) / len(self._recent)


class SafeLine:
    """Whole lines into a stream that may be closed at any time: then it falls silent, the work goes on."""

    def __init__(self, stream: TextIO) -> None:
        self._stream: TextIO | None = stream

    def write(self, text: str) -> None:
        """Write and flush one line."""
        if self._stream is None:
            return
        try:
            self._stream.write(printable(text) + "\n")
            self._stream.flush()
        except (OSError, ValueError):  # a closed pipe, a closed stream
            self._stream = None


def printable(text: str) -> str:
    """Text from a file or a user as a terminal may have it: control characters are written out, as \\x1b."""
    return text.translate(CONTROLS)


def describe(event: Event) -> str:
    """An event in one line for people."""
    if isinstance(event, StageDone):
        detail = f" ({event.detail})" if event.detail else ""
        return f"{stage_name(event.stage)}: done in {duration(event.seconds)}{detail}"
    if isinstance(event, Note):
        return f"warning: {event.text}" if event.level == "warning" else event.text
    if isinstance(event, Planned):
        return event.text
    if isinstance(event, Finished):
        done = f"{event.output} is done in {duration(event.seconds)}, seed {event.seed}"
        return f"{done} ({summarised(event.summary)})" if event.summary else done
    return stage_name(event.stage)


def summarised(summary: Mapping[str, object]) -> str:
    """What really ran, in words: device, arithmetic, attention."""
    dtypes = summary.get("dtypes")
    arithmetic = "/".join(sorted(set(dtypes.values()))) if isinstance(dtypes, dict) else ""
    words = [
        str(summary.get("device", "")),
        arithmetic,
        str(summary.get("attention", "")),
        str(summary.get("linear", "")),
        str(summary.get("tier", "")),
        _recovered(summary.get("recoveries")),
    ]
    return ", ".join(word for word in words if word)


def _recovered(lines: object) -> str:
    count = len(lines) if isinstance(lines, list) else 0
    return f"{count} {'recovery' if count == 1 else 'recoveries'} on the way" if count else ""


def stage_name(stage: str) -> str:
    """The stage in words."""
    return STAGE_NAMES.get(stage, stage)


def memory_in_use() -> str:
    """This process's memory, and the device's where torch has a CUDA device in use."""
    import psutil  # type: ignore[import-untyped]  # it ships no types

    text = f"{psutil.Process().memory_info().rss / 2**20:,.0f} MiB"
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        text += f", GPU {torch.cuda.memory_reserved() / 2**20:,.0f} MiB"
    return text


def _live_progress(display: LiveDisplay) -> Progress:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, ProgressColumn, SpinnerColumn, Task, TextColumn
    from rich.text import Text

    class StateColumn(ProgressColumn):
        max_refresh = 0.5

        def render(self, task: Task) -> Text:
            if display.is_stopping:
                return Text(STOPPING, style="yellow")
            done = "" if task.total is None else f"{task.completed:.0f} of {task.total:.0f}"
            return Text("  ".join(part for part in (done, task.fields["left"], memory_in_use()) if part))

    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), StateColumn())
    return Progress(*columns, console=Console(stderr=True), redirect_stdout=False, redirect_stderr=False)


def _escaped(text: str) -> str:
    from rich.markup import escape

    return escape(printable(text))


def _is_terminal(stream: TextIO) -> bool:
    try:
        return stream.isatty()
    except ValueError:  # closed
        return False


def _plain(value: object) -> str:
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"an event holds a {type(value).__name__}")


def _write_now(text: str) -> None:
    """Straight to the descriptor: a signal handler may have interrupted a write of the same stream."""
    with contextlib.suppress(OSError):
        os.write(2, f"{text}\n".encode())
