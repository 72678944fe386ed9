"""The model: is it there and complete, what kind is it, does it fit; and a real video of the one that ships."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from ...errors import DeviceBusyError, HvliteError
from ...quantize.readers.locate import ModelFiles
from ..request.model_choice import choose_model
from .finding import Finding, Patient, State

TIMEOUT_S = 300
TRIAL = ("--video-size", "64", "64", "--frames", "5", "--steps", "1", "--seed", "1")


def check_model(patient: Patient) -> Iterator[Finding]:
    """Every part in its place and readable; what it lacks to be streamed or verified."""
    choice = choose_model(patient.model, None, use_fp8=False)
    if patient.model is None:
        yield Finding("model", "ok", "the small one that ships with hvlite (--model examines another)")
        return
    files = choice.files
    locked = [path for path in _files(files) if not os.access(path, os.R_OK)]
    if locked:
        yield Finding("model", "error", f"{locked[0]} cannot be read", f"ls -l {locked[0]}", exit_code=3)
        return
    if files.layout == "hvlite":
        what = f"{patient.model}: converted by hvlite, its blocks stream; hvlite.json has the SHA-256 of every file"
        yield Finding("model", "ok", what, f"hvlite verify {patient.model}   # reads and checks every file")
    else:
        what = f"{patient.model}: {files.layout} layout, complete; it is loaded whole"
        yield Finding("model", "ok", what, f"hvlite quantize {patient.model} {patient.model.name}-fp8   # to stream it")


def _files(files: ModelFiles) -> Iterator[Path]:
    for part in (files.transformer, files.vae, files.text_encoder, files.text_encoder_2):
        if part is not None:
            yield part.path


def check_plan(patient: Patient) -> Iterator[Finding]:
    """Whether the model's own size fits this machine."""
    from ..planning.request import PlanOptions, make_plan

    model = None if patient.model is None else str(patient.model)
    plan = make_plan(PlanOptions(model=model, device=patient.device))
    size = f"{plan.work.height}x{plan.work.width}, {plan.work.frames} frames"
    again = "hvlite plan" + (f" --model {model}" if model else "")
    if plan.fits:
        yield Finding("plan", "ok", f"{size}: fits", again)
    else:
        yield Finding("plan", "error", f"{size}: does not fit", f"{again}   # names what does", exit_code=6)


def check_trial(patient: Patient) -> Iterator[Finding]:
    """Makes a tiny video of the shipped model as a person would, in a process of its own."""
    with tempfile.TemporaryDirectory(prefix="hvlite-doctor-") as folder:
        output = Path(folder, "trial.mp4")
        words = ["generate", "a red circle moves to the right", *TRIAL, "--no-wait", "--json", f"--output={output}"]
        command = [sys.executable, "-m", "hvlite.cli", *words, f"--device={patient.device}"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
        made = output.is_file()
    events = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    last = events[-1] if events else {}
    if done.returncode == 0 and made:
        device = last.get("summary", {}).get("device", "")
        yield Finding("trial", "ok", f"a video of the shipped model was made in {last['seconds']:.1f} s ({device})")
        return
    lines = done.stderr.strip().splitlines() or [f"the process ended with {done.returncode}"]
    what = last.get("message") or lines[-1]
    state: State = "warning" if done.returncode == DeviceBusyError.exit_code else "error"
    code = done.returncode if done.returncode > 0 else HvliteError.exit_code  # below 0: killed by a signal
    yield Finding("trial", state, f"no video: {what[:300]}", last.get("hint"), code)
