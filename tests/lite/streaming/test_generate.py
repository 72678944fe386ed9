"""Prompt to video with a converted model: every tier, resumed in another one, ends with the same latents."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

import hvlite
from hvlite.errors import ConfigError
from hvlite.lite.config import GenerateConfig, GenerateRequest
from hvlite.lite.events import Event, StepDone, ignore
from hvlite.lite.interrupt import StopFlag
from hvlite.lite.job import run_generate
from hvlite.lite.sampling import initial_latents
from hvlite.lite.state.latents_file import read_latents
from hvlite.quantize.convert import QuantizeOptions, run_quantize

TIERS = ("resident", "host", "disk")
CONFIG = GenerateConfig(
    prompt="a fox on the ice",
    height=32,
    width=48,
    frames=5,
    steps=3,
    guidance_scale=6.0,
    flow_shift=7.0,
    seed=11,
    fps=8,
)


@pytest.fixture(scope="module")
def model(golden: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The golden tree as `hvlite quantize` writes it."""
    output = tmp_path_factory.mktemp("model") / "fp8"
    run_quantize(QuantizeOptions(golden / "ckpts_diffusers", output, text_encoder="bf16", workers=1))
    return output


@pytest.mark.parametrize("cfg_scale", [1.0, 3.0])
def test_every_tier_gives_the_same_latents(model, cfg_scale):
    config = replace(CONFIG, cfg_scale=cfg_scale)
    pipelines = {tier: hvlite.load(model, device="cpu", tier=tier) for tier in TIERS}
    conditioning = pipelines["resident"].embed(config, pipelines["resident"].arrange(config))

    def latents(pipeline: hvlite.Pipeline, done: int, first: torch.Tensor) -> list[torch.Tensor]:
        arrangement = pipeline.arrange(config)
        return [each for _, each in pipeline.denoise(config, conditioning, first, arrangement, start=done)]

    expected = latents(pipelines["resident"], 0, initial_latents(config))
    for tier, pipeline in pipelines.items():
        ours = latents(pipeline, 0, initial_latents(config))
        assert all(torch.equal(one, other) for one, other in zip(ours, expected, strict=True))
        assert str(pipeline.parts.tiers) == tier
        (last,) = latents(pipeline, 2, expected[1])
        assert torch.equal(last, expected[-1])


def test_a_kept_pipeline_makes_the_same_video_again(model):
    pipeline = hvlite.load(model, device="cpu", tier="disk", keep_loaded=True)
    first, second = (pipeline.generate(CONFIG).frames for _ in range(2))
    assert torch.equal(first, second)


@pytest.mark.parametrize("tier", ["host", "disk"])
def test_a_tree_of_whole_files_cannot_be_streamed(golden, tier):
    with pytest.raises(ConfigError, match=f"--tier {tier} needs a model"):
        hvlite.load(golden / "ckpts_diffusers", device="cpu", tier=tier)


def test_a_run_stopped_in_one_tier_goes_on_in_another(model, tmp_path):
    """The files of a run do not say where the weights were; its summary does."""
    events: list[Event] = []

    def crash(event: Event) -> None:
        if isinstance(event, StepDone) and event.index == 2:
            raise KeyboardInterrupt

    def request(output: str, tier: str, resume: bool | None = None) -> GenerateRequest:
        return GenerateRequest(
            config=CONFIG, output=tmp_path / output, model=model, tier=tier, resume=resume, keep_latents=True
        )

    run_generate(request("whole.mp4", "resident"), ignore, StopFlag())
    with pytest.raises(KeyboardInterrupt):
        run_generate(request("stopped.mp4", "disk"), crash, StopFlag())
    run_generate(request("stopped.mp4", "host", resume=True), events.append, StopFlag())
    whole, stopped = (
        read_latents(tmp_path / f"{name}.mp4.hvlite" / "latents.safetensors")[0] for name in ("whole", "stopped")
    )
    assert torch.equal(whole, stopped)
    assert events[-1].summary["tier"] == "host"


def test_an_unknown_tier_is_refused_at_once(tmp_path):
    with pytest.raises(ConfigError, match="one of auto, resident, host, disk"):
        GenerateRequest(config=CONFIG, output=tmp_path / "a.mp4", tier="cloud")
