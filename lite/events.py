"""What a run reports while it works. The command line renders these; a program may read them as JSON."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal


@dataclass(frozen=True)
class StageStarted:
    """A stage begins: `embed`, `denoise`, `decode`. `total` is its number of steps, or None."""

    stage: str
    total: int | None = None


@dataclass(frozen=True)
class StepDone:
    """Step `index` (from 1) of `total` took `seconds`."""

    stage: str
    index: int
    total: int
    seconds: float


@dataclass(frozen=True)
class StageDone:
    """A stage ended after `seconds`; `detail` says in a few words what ran."""

    stage: str
    seconds: float
    detail: str = ""


@dataclass(frozen=True)
class Note:
    """Something the user should know now."""

    level: Literal["info", "warning"]
    text: str


@dataclass(frozen=True)
class Planned:
    """How the run is laid out in memory: in one line, and as the plan's values."""

    text: str
    plan: Mapping[str, Any]


@dataclass(frozen=True)
class Finished:
    """The video is on disk. `summary` names what really ran: model, kernels, dtypes, device."""

    output: Path
    seed: int
    seconds: float
    summary: Mapping[str, Any] = field(default_factory=dict)


Event = StageStarted | StepDone | StageDone | Note | Planned | Finished
Listener = Callable[[Event], None]


def ignore(event: Event) -> None:
    """A listener for callers that do not watch."""


class StageReport:
    """Reports the steps of one stage with the seconds each took; `detail` goes into the stage's last event."""

    def __init__(self, name: str, total: int | None, on_event: Listener) -> None:
        self.name, self.total, self.on_event = name, total, on_event
        self.detail = ""
        self.began = self._last = time.monotonic()

    def prepared(self) -> None:
        """What was done since the last step is done once, as the loading of a model: no step is timed with it."""
        self._last = time.monotonic()

    def step(self, done: int) -> None:
        """Steps 1 to `done` are done."""
        now = time.monotonic()
        self.on_event(StepDone(self.name, done, self.total or done, now - self._last))
        self._last = now


@contextmanager
def stage(name: str, total: int | None, on_event: Listener) -> Iterator[StageReport]:
    """Reports the start of a stage, its steps through the value, and its end unless it fails."""
    on_event(StageStarted(name, total))
    report = StageReport(name, total, on_event)
    yield report
    on_event(StageDone(name, time.monotonic() - report.began, report.detail))
