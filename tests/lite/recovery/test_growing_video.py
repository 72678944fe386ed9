"""Frames leave the decode as they are made: the file grows, and what a killed decode leaves behind plays."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import hvlite
from hvlite.benchmarks.measure import AllocationTracker
from hvlite.lite.config import DecodeRequest
from hvlite.lite.events import Event, StepDone
from hvlite.lite.interrupt import StopFlag
from hvlite.lite.job import run_decode
from hvlite.lite.output.video_read import read_video
from hvlite.lite.state.latents_file import LatentsNote, write_latents

FRAMES = 129


@pytest.fixture
def latents(clean_model, tmp_path, config) -> Path:
    long = replace(config, frames=FRAMES, height=16, width=32)
    pipeline = hvlite.load(clean_model, device="cpu")
    values = torch.randn(long.latent_shape, generator=torch.Generator().manual_seed(1))
    path = tmp_path / "latents.safetensors"
    settings = {**pipeline.settings(long), "model_fingerprint": pipeline.fingerprint}
    write_latents(path, values, LatentsNote(settings, ""))
    return path


def test_the_video_grows_between_chunks(clean_model, latents, tmp_path):
    output, sizes = tmp_path / "a.mp4", []

    def watch(event: Event) -> None:
        if isinstance(event, StepDone):
            sizes.append(Path(f"{output}.hvlite/partial.mp4").stat().st_size)

    run_decode(DecodeRequest(latents=latents, output=output, model=clean_model), watch, StopFlag())
    assert len(sizes) >= 3
    assert sizes == sorted(set(sizes))
    assert read_video(output)[0].shape[0] == FRAMES


@pytest.mark.slow
def test_kill_9_in_mid_decode_leaves_what_was_decoded(clean_model, latents, tmp_path):
    output = tmp_path / "a.mp4"
    words = [str(latents), "--model", str(clean_model), "--output", str(output), "--json"]
    command = [sys.executable, "-m", "hvlite.cli", "decode", *words]
    done = 0
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=tmp_path) as process:
        assert process.stdout is not None
        for line in process.stdout:
            event = json.loads(line)
            if event["event"] == "step_done" and event["stage"] == "decode":
                done = event["index"]
                process.send_signal(signal.SIGKILL)
                break
    assert process.wait() == -signal.SIGKILL
    assert not output.exists()
    frames = read_video(Path(f"{output}.hvlite/partial.mp4"))[0]
    assert frames.shape[0] >= done - 1 > 0


def test_the_peak_does_not_grow_with_the_number_of_frames(clean_model):
    """Apart from the latents, all there from the start; from 129 frames on, where two tiles in time are full."""
    pipeline = hvlite.load(clean_model, device="cpu", keep_loaded=True)
    peaks = []
    for frames in (129, 257):
        latents = torch.randn(1, 16, (frames - 1) // 4 + 1, 2, 4, generator=torch.Generator().manual_seed(1))
        list(pipeline.decode(latents[:, :, :1]))  # the weights are there before
        with AllocationTracker() as memory:
            for chunk in pipeline.decode(latents):
                del chunk
        peaks.append(memory.peak_bytes - latents.nbytes)
    assert max(peaks) <= 1.02 * min(peaks), peaks
