from __future__ import annotations

import contextlib
import io
import json
import os
from pathlib import Path

import pytest
import torch

from hvlite import display
from hvlite.display import JsonDisplay, LiveDisplay, Pace, PlainDisplay, SafeLine, describe, memory_in_use
from hvlite.lite.doctor.examination import verdict
from hvlite.lite.doctor.finding import Finding
from hvlite.lite.durations import counted, duration
from hvlite.lite.events import Event, Finished, Note, StageDone, StageStarted, StepDone
from hvlite.lite.pauses import watched_chunks

RUN: list[Event] = [
    Note("info", "a model, [64x64]"),
    StageStarted("embed"),
    StageDone("embed", 1.25, "7 text tokens"),
    StageStarted("denoise", 20),
    *[StepDone("denoise", index, 20, 0.5) for index in range(1, 21)],
    StageDone("denoise", 10.0, "20 steps"),
    Note("warning", "the prompt was cut"),
    Finished(Path("a [b].mp4"), 7, 75.0, {"model": "small", "dtypes": {"vae": "float32"}}),
]


def test_json_lines_hold_every_field() -> None:
    stream = io.StringIO()
    shown = JsonDisplay(stream)
    for event in RUN:
        shown.show(event)
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert len(lines) == len(RUN)
    assert lines[1] == {"event": "stage_started", "stage": "embed", "total": None}
    assert lines[4] == {"event": "step_done", "stage": "denoise", "index": 1, "total": 20, "seconds": 0.5}
    assert lines[-1]["event"] == "finished"
    assert lines[-1]["output"] == "a [b].mp4"
    assert lines[-1]["summary"]["dtypes"] == {"vae": "float32"}


def test_plain_lines_are_few_and_end_with_the_last_step() -> None:
    stream = io.StringIO()
    shown = PlainDisplay(stream)
    for event in RUN:
        shown.show(event)
    lines = stream.getvalue().splitlines()
    steps = [line for line in lines if "denoising:" in line and " of 20" in line]
    assert "1 of 20" in steps[0]
    assert "20 of 20" in steps[-1]
    assert 2 <= len(steps) <= 4  # 20 steps came at once: one line a second
    assert "9.5 s left" in steps[0]
    assert "MiB" in steps[0]
    assert "warning: the prompt was cut" in lines
    assert lines[-1] == "a [b].mp4 is done in 1 min 15 s, seed 7 (float32)"


def test_plain_lines_come_for_every_slow_step(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(0, 1000, 2))
    monkeypatch.setattr(display.time, "monotonic", lambda: float(next(clock)))
    stream = io.StringIO()
    shown = PlainDisplay(stream)
    for event in RUN:
        shown.show(event)
    assert stream.getvalue().count(" of 20") == 20


def test_the_live_display_keeps_what_is_done(capsys: pytest.CaptureFixture[str]) -> None:
    with LiveDisplay() as live:
        for event in RUN:
            live.show(event)
    kept = capsys.readouterr().err
    assert "denoising: done in 10 s (20 steps)" in kept
    assert "a model, [64x64]" in kept
    assert "a [b].mp4 is done" in kept


def test_time_left_follows_the_recent_steps() -> None:
    pace = Pace()
    for index in range(1, 51):
        pace.left_s(StepDone("denoise", index, 100, 10.0))
    for index in range(51, 60):
        left = pace.left_s(StepDone("denoise", index, 100, 1.0))
    assert left == pytest.approx(41.0)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.04, "0.0 s"), (9.94, "9.9 s"), (10, "10 s"), (59.7, "1 min 0 s"), (125, "2 min 5 s"), (12_000, "3 h 20 min")],
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_one_has_no_s() -> None:
    assert [counted(number, "frame") for number in (0, 1, 2)] == ["0 frames", "1 frame", "2 frames"]
    assert verdict([Finding("a", "warning", "x")]).endswith(" 1 warning above.")
    assert verdict([Finding("a", "warning", "x")] * 2).endswith(" 2 warnings above.")


@pytest.mark.parametrize(("latent_frames", "said"), [(1, "(1 frame)"), (2, "(5 frames)")])
def test_a_decode_counts_its_frames(latent_frames: int, said: str) -> None:
    stream = io.StringIO()
    latents, frames = torch.zeros(1, 16, latent_frames, 2, 2), torch.zeros(4 * latent_frames - 3, 16, 16, 3)
    list(watched_chunks(iter([frames]), latents, PlainDisplay(stream).show, lambda where: None))
    assert stream.getvalue().splitlines()[-1].endswith(said)


def test_a_closed_stream_is_silence() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    stream = os.fdopen(writer, "w")
    line = SafeLine(stream)
    for _ in range(3):
        line.write("x" * 100_000)
    with contextlib.suppress(BrokenPipeError):  # what the stream still holds
        stream.close()
    closed = io.StringIO()
    closed.close()
    SafeLine(closed).write("x")


def test_memory_is_this_process() -> None:
    assert int(memory_in_use().split()[0].replace(",", "")) > 20


def test_control_characters_are_written_out_and_letters_stay() -> None:
    stream = io.StringIO()
    PlainDisplay(stream).show(Note("info", "a\x1b]0;title\x07b\x9b31m\tc\nd 猫 é"))
    assert stream.getvalue() == "a\\x1b]0;title\\x07b\\x9b31m\tc\nd 猫 é\n"


def test_json_lines_stay_json() -> None:
    stream = io.StringIO()
    JsonDisplay(stream).show(Note("info", "\x1b[31m\x7f\x9b"))
    assert json.loads(stream.getvalue())["text"] == "\x1b[31m\x7f\x9b"


@pytest.mark.parametrize(("lines", "said"), [(["a"], "1 recovery on the way"), (["a", "b"], "2 recoveries on the way")])
def test_the_last_line_counts_what_went_otherwise_than_planned(lines: list[str], said: str) -> None:
    assert said in describe(Finished(Path("a.mp4"), 7, 75.0, {"device": "CPU", "recoveries": lines}))
