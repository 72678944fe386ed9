"""The model's folder goes away in mid-run: one clear error, the work kept, and the run goes on once it is back."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from hvlite.errors import CheckpointError
from hvlite.lite.config import GenerateRequest
from hvlite.lite.events import Event, StageStarted, StepDone, ignore
from hvlite.lite.interrupt import StopFlag
from hvlite.lite.job import run_generate
from hvlite.lite.state.latents_file import read_latents


def test_blocks_that_disappear_between_steps(model, tmp_path, config, clean_model):
    output = tmp_path / "a.mp4"

    def take(event: Event) -> None:
        if isinstance(event, StepDone) and event.stage == "denoise" and event.index == 1:
            shutil.rmtree(model / "transformer")

    with pytest.raises(CheckpointError, match=r"double_blocks|single_blocks"):
        run_generate(GenerateRequest(config=config, output=output, model=model, tier="disk"), take, StopFlag())
    assert (read_latents(Path(f"{output}.hvlite/step.safetensors"))[1].step or 0) >= 1
    shutil.copytree(clean_model / "transformer", model / "transformer")
    asked = GenerateRequest(config=config, output=output, model=model, tier="disk", resume=True)
    run_generate(asked, ignore, StopFlag())
    assert output.exists()


@pytest.mark.parametrize(("part", "stage"), [("transformer", "denoise"), ("vae", "decode")])
def test_a_part_that_disappears_between_stages(model, tmp_path, config, clean_model, part, stage):
    output = tmp_path / "a.mp4"

    def take(event: Event) -> None:
        if isinstance(event, StageStarted) and event.stage == stage:
            shutil.rmtree(model / part)

    with pytest.raises(CheckpointError):
        run_generate(GenerateRequest(config=config, output=output, model=model), take, StopFlag())
    assert Path(f"{output}.hvlite/latents.safetensors").exists() == (stage == "decode")
    shutil.copytree(clean_model / part, model / part)
    run_generate(GenerateRequest(config=config, output=output, model=model, resume=True), ignore, StopFlag())
    assert output.exists()
