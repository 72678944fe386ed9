"""Out of memory while a prompt is read: the language model goes layer by layer, the embeddings are the same."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from starvation import FAILURES, Capped, Starved

import hvlite
from hvlite.cli import main
from hvlite.errors import MemoryLimitError
from hvlite.lite.batch.embedded import embed_prompts
from hvlite.lite.config import GenerateConfig, GenerateRequest
from hvlite.lite.encoders.text_models import build_on_meta
from hvlite.lite.events import Event, Note, StageDone, StepDone, ignore
from hvlite.lite.guidance import Conditioning
from hvlite.lite.interrupt import StopFlag
from hvlite.lite.job import run_generate
from hvlite.lite.pipeline import Pipeline
from hvlite.lite.recovery.encoder import BY_LAYER
from hvlite.lite.recovery.recoveries import Recoveries
from hvlite.lite.recovery.rungs import SAME_AGAIN
from hvlite.lite.state.latents_file import read_latents

SAMPLES = 6
ALWAYS = frozenset(range(1_000_000))
LATER = ALWAYS - frozenset(range(20))  # behind the noise, or the step of an earlier run


@pytest.fixture
def events() -> list[Event]:
    return []


@pytest.fixture
def pipeline(clean_model: Path, events: list[Event]) -> Pipeline:
    return hvlite.load(clean_model, device="cpu", prompt_cache=False, on_event=events.append)


def equal(one: Conditioning, other: Conditioning) -> bool:
    names = ("prompt_embeds", "prompt_mask", "pooled_prompt_embeds")
    return all(torch.equal(getattr(one.positive, name), getattr(other.positive, name)) for name in names)


@pytest.mark.timeout(900)
@pytest.mark.parametrize("every", [None, pytest.param(1, marks=pytest.mark.full)])
@pytest.mark.parametrize("by_layer", [False, True])  # as planned: whole, or layer by layer from the start
def test_an_allocation_that_fails_costs_nothing_but_time(
    pipeline: Pipeline,
    config: GenerateConfig,
    events: list[Event],
    by_layer: bool,
    every: int | None,
    quick_collections: None,
    capsys: pytest.CaptureFixture[str],
) -> None:
    arrangement = replace(pipeline.arrange(config), text_by_layer=by_layer)
    with Starved() as memory:
        wanted = pipeline.embed(config, arrangement)
    assert memory.allocations > 50
    numbers = range(0, memory.allocations, every or memory.allocations // SAMPLES)
    for number in numbers:
        events.clear()
        recoveries = Recoveries()
        with Starved(frozenset({number}), list(FAILURES)[number % len(FAILURES)]) as starved:
            ours = pipeline.embed(config, arrangement, recoveries=recoveries)
        assert starved.failed == 1
        assert equal(ours, wanted)
        (note,) = [event for event in events if isinstance(event, Note)]
        assert "out of memory while encoding the prompt" in note.text
        assert ("layer by layer" in note.text) != by_layer
        assert recoveries.lines == [f"embed: {SAME_AGAIN if by_layer else BY_LAYER}"]
    if every == 1:
        with capsys.disabled():
            print(f"\nout of memory while reading a prompt, {by_layer=}: all of {len(numbers)} allocations recovered")


def test_a_cap_below_the_whole_encoder_is_met_layer_by_layer(
    pipeline: Pipeline, config: GenerateConfig, events: list[Event]
) -> None:
    peaks = []
    for by_layer in (True, False):
        with Capped(1 << 40) as free, pipeline.parts.text(by_layer=by_layer) as text:
            text.encode(config.prompt)
        peaks.append(free.peak_bytes)
    assert peaks[0] < peaks[1]
    wanted = pipeline.embed(config)
    with Capped(sum(peaks) // 2) as capped:
        ours = pipeline.embed(config)
    assert capped.failed
    assert equal(ours, wanted)
    assert any("layer by layer" in event.text for event in events if isinstance(event, Note))


def test_what_had_been_loaded_is_gone_before_the_next_try(pipeline: Pipeline, config: GenerateConfig) -> None:
    with Starved() as dry:
        pipeline.embed(config)
    alive: list[int] = []
    starved = Starved(frozenset({dry.allocations - 5}))
    pipeline.parts.on_event = lambda event: alive.append(starved.alive_bytes())
    with starved:
        pipeline.embed(config)
    assert alive == [0]


def test_memory_that_never_comes_ends_in_one_error_that_says_what_helps(
    pipeline: Pipeline, config: GenerateConfig, events: list[Event]
) -> None:
    with Starved(ALWAYS), pytest.raises(MemoryLimitError, match="layer by layer as well") as caught:
        pipeline.embed(config)
    assert "hvlite quantize" in str(caught.value.hint)
    assert "--frames" not in str(caught.value.hint)  # a shorter video takes as much here
    assert len([event for event in events if isinstance(event, Note)]) == 2


def test_a_batch_goes_on_layer_by_layer(pipeline: Pipeline, config: GenerateConfig, events: list[Event]) -> None:
    configs = {0: config, 1: config}
    wanted, _ = embed_prompts(pipeline, configs, events.append, StopFlag())
    with Starved() as dry:
        embed_prompts(pipeline, configs, events.append, StopFlag())
    events.clear()
    with Starved(frozenset({dry.allocations // 2})) as starved:
        ours, problems = embed_prompts(pipeline, configs, events.append, StopFlag())
    assert starved.failed == 1
    assert problems == {}
    assert all(equal(ours[index], wanted[index]) for index in configs)
    assert sum("layer by layer" in event.text for event in events if isinstance(event, Note)) == 1
    assert [type(event) for event in events[-3:]] == [StepDone, StepDone, StageDone]


def test_memory_that_never_comes_ends_a_batch_at_once(
    pipeline: Pipeline, config: GenerateConfig, events: list[Event]
) -> None:
    with Starved(ALWAYS), pytest.raises(MemoryLimitError, match="layer by layer as well"):
        embed_prompts(pipeline, {0: config, 1: config}, ignore, StopFlag())
    assert len([event for event in events if isinstance(event, Note)]) == 2


@pytest.mark.parametrize(("fails", "said"), [(ALWAYS, "can't allocate"), (LATER, "layer by layer as well")])
def test_the_command_line_says_it_in_one_line(
    clean_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], fails: frozenset[int], said: str
) -> None:
    """Whatever gets no memory: the first thing made is the noise, which belongs to no stage."""
    words = ["generate", "a fox", "--model", str(clean_model), "--output", str(tmp_path / "a.mp4"), "--json"]
    words += ["--video-size", "16", "16", "--frames", "5", "--steps", "1", "--no-prompt-cache", "--device", "cpu"]
    with Starved(fails, "cpu"):
        assert main(words) == MemoryLimitError.exit_code
    printed = capsys.readouterr()
    last = json.loads(printed.out.splitlines()[-1])
    assert (last["event"], last["exit_code"]) == ("error", MemoryLimitError.exit_code)
    assert said in last["message"]
    assert last["hint"]
    assert "Traceback" not in printed.err
    assert not (tmp_path / "a.mp4").exists()


def test_the_steps_of_an_earlier_run_stay(clean_model: Path, config: GenerateConfig, tmp_path: Path) -> None:
    """A run that goes on reads its prompt again; where that fails, what is kept is as it was."""
    asked = GenerateRequest(config=config, output=tmp_path / "a.mp4", model=clean_model, prompt_cache=False)
    step = tmp_path / "a.mp4.hvlite" / "step.safetensors"

    def leave(event: Event) -> None:
        if isinstance(event, StepDone):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_generate(asked, leave, StopFlag())
    before = step.read_bytes()
    with Starved(LATER), pytest.raises(MemoryLimitError, match="layer by layer as well"):
        run_generate(replace(asked, resume=True), ignore, StopFlag())
    assert step.read_bytes() == before
    run_generate(replace(asked, resume=True, keep_latents=True), ignore, StopFlag())
    run_generate(replace(asked, output=tmp_path / "b.mp4", keep_latents=True), ignore, StopFlag())
    ours, wanted = (read_latents(tmp_path / f"{name}.mp4.hvlite" / "latents.safetensors")[0] for name in "ab")
    assert torch.equal(ours, wanted)


def test_memory_that_runs_out_is_no_fault_of_the_config(tmp_path: Path) -> None:
    """transformers' own errors are told as a bad config.json; this one is none of them."""

    class Source:
        config: ClassVar[dict[str, Any]] = {}
        paths = (tmp_path,)

    def exhausted(**fields: Any) -> None:
        raise MemoryError

    with pytest.raises(MemoryError):
        build_on_meta(exhausted, exhausted, Source())
