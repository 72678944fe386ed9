"""A run that is stopped anywhere goes on where it stopped and ends with the bits of one that never was."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from hvlite.errors import ConfigError, InterruptedRunError
from hvlite.lite.config import DecodeRequest, GenerateConfig, GenerateRequest
from hvlite.lite.events import Event, StepDone, ignore
from hvlite.lite.interrupt import StopFlag
from hvlite.lite.job import run_decode, run_generate
from hvlite.lite.output.video_read import read_video
from hvlite.lite.state.latents_file import read_latents

STEPS = 5
CONFIG = GenerateConfig(
    prompt="a fox on the ice",
    height=32,
    width=48,
    frames=5,
    steps=STEPS,
    guidance_scale=6.0,
    flow_shift=7.0,
    seed=11,
    fps=8,
)


class Crash(BaseException):
    """What nobody catches."""


def request(golden: Path, output: Path, **changes: object) -> GenerateRequest:
    return replace(
        GenerateRequest(config=CONFIG, output=output, model=golden / "ckpts_diffusers", keep_latents=True), **changes
    )


def run(asked: GenerateRequest, on_event=ignore) -> None:
    run_generate(asked, on_event, StopFlag())


def crash_after(step: int, stage: str = "denoise"):
    def listen(event: Event) -> None:
        if isinstance(event, StepDone) and event.stage == stage and event.index >= step:
            raise Crash

    return listen


def final_latents(output: Path) -> torch.Tensor:
    return read_latents(Path(f"{output}.hvlite/latents.safetensors"))[0]


def kept_files(output: Path) -> list[tuple[str, bytes]]:
    folder = Path(f"{output}.hvlite")
    return sorted((path.name, path.read_bytes()) for path in folder.iterdir() if path.name != "lock")


@pytest.fixture(scope="module")
def undisturbed(golden: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("undisturbed") / "fox.mp4"
    run(request(golden, output))
    return output


@pytest.mark.parametrize("step", range(1, STEPS + 1))
def test_every_step_can_be_the_last_before_a_crash(golden, undisturbed, tmp_path, step):
    output = tmp_path / "fox.mp4"
    with pytest.raises(Crash):
        run(request(golden, output), crash_after(step))
    assert not output.exists()
    steps: list[int] = []
    asked = request(golden, output, resume=True)
    run(asked, lambda event: steps.append(event.index) if isinstance(event, StepDone) else None)
    assert steps[: STEPS - step] == list(range(step + 1, STEPS + 1))
    assert torch.equal(final_latents(output), final_latents(undisturbed))
    assert output.read_bytes() == undisturbed.read_bytes()


def test_a_crash_in_the_decode_costs_no_step(golden, undisturbed, tmp_path):
    output = tmp_path / "fox.mp4"
    with pytest.raises(Crash):
        run(request(golden, output), crash_after(1, stage="decode"))
    stages: set[str] = set()
    asked = request(golden, output, resume=True)
    run(asked, lambda event: stages.add(event.stage) if isinstance(event, StepDone) else None)
    assert stages == {"decode"}
    assert output.read_bytes() == undisturbed.read_bytes()


def test_a_requested_stop_names_where_the_work_is(golden, undisturbed, tmp_path):
    output, stop = tmp_path / "fox.mp4", StopFlag()

    def listen(event: Event) -> None:
        if isinstance(event, StepDone) and event.index == 2:
            stop.request()

    with pytest.raises(InterruptedRunError) as caught:
        run_generate(request(golden, output), listen, stop)
    assert "step 2 of 5" in caught.value.message
    assert str(output) + ".hvlite" in caught.value.message
    run(request(golden, output, resume=True))
    assert torch.equal(final_latents(output), final_latents(undisturbed))


@pytest.mark.parametrize("changed", [{"seed": 12}, {"steps": 6}, {"prompt": "a bear"}, {"guidance_scale": 5.0}])
def test_other_settings_are_refused_by_name(golden, tmp_path, changed):
    output = tmp_path / "fox.mp4"
    with pytest.raises(Crash):
        run(request(golden, output), crash_after(2))
    before = kept_files(output)
    with pytest.raises(ConfigError, match=next(iter(changed))):
        run(request(golden, output, resume=True, config=replace(CONFIG, **changed)))
    after = kept_files(output)
    assert before == after


def test_another_model_is_refused(golden, tmp_path):
    output = tmp_path / "fox.mp4"
    with pytest.raises(Crash):
        run(request(golden, output), crash_after(2))
    other = json.loads((golden / "dit/dit.json").read_text())["config"]
    with pytest.raises(ConfigError, match="model_fingerprint"):
        run(request(golden, output, resume=True, model=golden / "ckpts_official", model_config=other))


def test_without_a_checkpoint_it_starts_at_step_0_and_says_so(golden, undisturbed, tmp_path):
    output, notes = tmp_path / "fox.mp4", []
    run(request(golden, output, resume=True), lambda event: notes.append(getattr(event, "text", "")))
    assert any("step 0" in note for note in notes)
    assert torch.equal(final_latents(output), final_latents(undisturbed))


def test_the_state_folder_goes_when_the_video_is_done(golden, tmp_path):
    output = tmp_path / "fox.mp4"
    run(request(golden, output, keep_latents=False))
    assert [path.name for path in tmp_path.iterdir()] == ["fox.mp4"]


def test_decode_makes_the_video_of_kept_latents(golden, undisturbed, tmp_path):
    output = tmp_path / "again.mp4"
    asked = DecodeRequest(
        latents=Path(f"{undisturbed}.hvlite/latents.safetensors"), output=output, model=golden / "ckpts_diffusers"
    )
    run_decode(asked, ignore, StopFlag())
    assert torch.equal(read_video(output)[0], read_video(undisturbed)[0])


@pytest.mark.slow
def test_kill_9_at_a_random_step(golden, undisturbed, tmp_path):
    """The real command, really killed; what it left behind is enough."""
    output = tmp_path / "fox.mp4"
    step = random.randrange(1, STEPS)
    options = {"prompt": CONFIG.prompt, "steps": STEPS, "seed": CONFIG.seed, "frames": CONFIG.frames, "fps": CONFIG.fps}
    words = [f"--{name}={value}" for name, value in options.items()]
    words += ["--video-size", "32", "48", "--model", str(golden / "ckpts_diffusers"), "--output", str(output)]
    command = [sys.executable, "-m", "hvlite.cli", "generate", *words, "--keep-latents", "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=tmp_path) as process:
        assert process.stdout is not None
        for line in process.stdout:
            event = json.loads(line)
            if event["event"] == "step_done" and event["stage"] == "denoise" and event["index"] == step:
                process.send_signal(signal.SIGKILL)
                break
    assert process.wait() == -signal.SIGKILL
    assert not output.exists()
    run(request(golden, output, resume=True))
    assert torch.equal(final_latents(output), final_latents(undisturbed))
