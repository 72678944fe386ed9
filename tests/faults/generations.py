"""`hvlite generate` with the model that ships here, through `main`, watched event by event.

The listener runs before the run goes on, so that the disk is full from a known moment.
"""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hvlite.cli import main
from hvlite.errors import CheckpointError, DiskError
from hvlite.lite.output.video_read import describe_existing
from hvlite.lite.state.latents_file import read_latents

STEPS = 3
SIZE = ["--video-size", "64", "64", "--frames", "9", "--steps", str(STEPS)]
WORDS = ["generate", "a red circle", *SIZE, "--seed", "5", "--crf", "2"]  # a video of several pages
OnEvent = Callable[[dict[str, Any]], None]


@dataclass(frozen=True)
class Told:
    """What a run said, and the code it left with."""

    code: int
    events: list[dict[str, Any]]
    errors: list[str]  # lines on stderr


class Watched(io.StringIO):
    """Stands where stdout is; each JSON line is handed on while it is written."""

    def __init__(self, on_event: OnEvent) -> None:
        super().__init__()
        self._on_event = on_event

    def write(self, text: str) -> int:
        for line in text.splitlines():
            if line:
                self._on_event(json.loads(line))
        return len(text)


def generate(output: Path, *extra: str, on_event: OnEvent = lambda event: None) -> Told:
    """A whole command line in this process."""
    events: list[dict[str, Any]] = []

    def listen(event: dict[str, Any]) -> None:
        events.append(event)
        on_event(event)

    errors = io.StringIO()
    words = [*WORDS, "--output", str(output), "--threads", "1", "--device", "cpu", "--json", *extra]
    with contextlib.redirect_stdout(Watched(listen)), contextlib.redirect_stderr(errors):
        code = main(words)
    return Told(code, events, errors.getvalue().splitlines())


@dataclass
class Undisturbed:
    """What a run has after each step, and its video, on a disk with room for everything."""

    folder: Path
    steps: dict[int, Tensor] = field(default_factory=dict)
    video: bytes = b""

    def __post_init__(self) -> None:
        output = self.folder / "whole.mp4"

        def keep(event: dict[str, Any]) -> None:
            if event["event"] == "step_done" and event["stage"] == "denoise":
                self.steps[event["index"]] = read_latents(state_of(output) / "step.safetensors")[0]

        told = generate(output, on_event=keep)
        assert told.code == 0, told.errors
        self.video = output.read_bytes()

    def broken_rules(self, output: Path, told: Told, kept: str) -> list[str]:
        """What is wrong after a disk was full: `kept` is "step 2", "latents", or "nothing"."""
        wrong = [*_badly_told(told), *self._badly_kept(state_of(output), kept)]
        wrong += ["something lies at the output"] if describe_existing(output).kind != "none" else []
        return wrong + [f"{path.name} was left" for path in state_of(output).glob(".*.part")]

    def _badly_kept(self, state: Path, kept: str) -> list[str]:
        if kept == "nothing":
            return [f"{path.name} is kept, not nothing" for path in state.glob("*.safetensors")]
        try:
            latents, note = read_latents(state / ("latents.safetensors" if kept == "latents" else "step.safetensors"))
        except CheckpointError as error:
            return [error.message]
        found = "latents" if note.step is None else f"step {note.step}"
        same = torch.equal(latents, self.steps[note.step or STEPS])
        return [] if found == kept and same else [f"{found} is kept, {'' if same else 'with other bits, '}not {kept}"]


def _badly_told(told: Told) -> list[str]:
    """One error for people, the same for programs, the exit code of a disk, and nothing else."""
    wrong = [] if told.code == DiskError.exit_code else [f"exit code {told.code}"]
    said = [line.partition(": ")[0] for line in told.errors]
    wrong += [] if said == ["error", "hint"] else [f"on stderr: {told.errors}"]
    last = told.events[-1]
    clear = last["event"] == "error" and "cannot write" in last["message"] and last["hint"]
    # A full disk has the whole command in its hint; one that takes no file of that size calls for another disk.
    clear = clear and ("No space left" not in last["message"] or "then go on with: hvlite generate" in last["hint"])
    return wrong if clear else [*wrong, f"the last event: {last}"]


def state_of(output: Path) -> Path:
    return Path(f"{output}.hvlite")


def when(do: Callable[[], None], **fields: object) -> OnEvent:
    """Do it at each event with these fields."""

    def listen(event: dict[str, Any]) -> None:
        if fields.items() <= {name: value for name, value in event.items() if name in fields}.items():
            do()

    return listen


def after_step(step: int, fill: Callable[[], None]) -> OnEvent:
    """Fill the disk once that step is saved; step 0: before the first one begins."""
    if step == 0:
        return when(fill, event="stage_started", stage="denoise")
    return when(fill, event="step_done", stage="denoise", index=step)


def before_decode(fill: Callable[[], None]) -> OnEvent:
    """Fill the disk when the latents are on it and no frame is."""
    return when(fill, event="stage_started", stage="decode")
