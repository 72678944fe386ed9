"""Out of memory while a prompt is read: the language model goes layer by layer, the embeddings are the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from starvation import FAILURES, Capped, Starved

import hvlite
from hvlite.errors import MemoryLimitError
from hvlite.lite.batch.embedded import embed_prompts
from hvlite.lite.config import GenerateConfig
from hvlite.lite.encoders.text_models import build_on_meta
from hvlite.lite.events import Event, Note, StageDone, StepDone
from hvlite.lite.guidance import Conditioning
from hvlite.lite.interrupt import StopFlag
from hvlite.lite.pipeline import Pipeline
from hvlite.lite.recovery.encoder import BY_LAYER
from hvlite.lite.recovery.recoveries import Recoveries

SAMPLES = 6


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
def test_an_allocation_that_fails_costs_nothing_but_time(
    pipeline: Pipeline,
    config: GenerateConfig,
    events: list[Event],
    every: int | None,
    quick_collections: None,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with Starved() as memory:
        wanted = pipeline.embed(config)
    assert memory.allocations > 50
    numbers = range(0, memory.allocations, every or memory.allocations // SAMPLES)
    for number in numbers:
        events.clear()
        recoveries = Recoveries()
        with Starved(frozenset({number}), list(FAILURES)[number % len(FAILURES)]) as starved:
            ours = pipeline.embed(config, recoveries=recoveries)
        assert starved.failed == 1
        assert equal(ours, wanted)
        (note,) = [event for event in events if isinstance(event, Note)]
        assert "out of memory while encoding the prompt" in note.text
        assert "layer by layer" in note.text
        assert recoveries.lines == [f"embed: {BY_LAYER}"]
    if every == 1:
        with capsys.disabled():
            print(f"\nout of memory while reading a prompt: all of {len(numbers)} allocations recovered")


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
    always, said = frozenset(range(1_000_000)), "layer by layer as well"
    with Starved(always), pytest.raises(MemoryLimitError, match=said) as caught:
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


def test_memory_that_runs_out_is_no_fault_of_the_config(tmp_path: Path) -> None:
    """transformers' own errors are told as a bad config.json; this one is none of them."""

    class Source:
        config: ClassVar[dict[str, Any]] = {}
        paths = (tmp_path,)

    def exhausted(**fields: Any) -> None:
        raise MemoryError

    with pytest.raises(MemoryError):
        build_on_meta(exhausted, exhausted, Source())
