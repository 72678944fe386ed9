"""Out of memory in a step or a tile: less is held, it is done again, and the bits are the same where they can be."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace

import pytest
import torch
from starvation import FAILURES, Capped, Starved

import hvlite
from hvlite.errors import MemoryLimitError
from hvlite.lite.arrangement import Arrangement
from hvlite.lite.events import Event, Note
from hvlite.lite.recovery.memory import out_of_memory
from hvlite.lite.recovery.rungs import MOST_RUNGS, TileWay, next_rung, next_way
from hvlite.lite.sampling import initial_latents
from hvlite.lite.streaming.tiers import TierCounts

SAMPLES = 12
BEFORE_THE_LADDER = 6  # the schedule is made there: the ladder stands on it
ALWAYS = frozenset(range(BEFORE_THE_LADDER, 1_000_000))


def test_the_ladder_of_the_13b_model_is_short_and_never_repeats():
    now, seen = Arrangement(tiers=TierCounts(resident=40, host=20)), []
    while rung := next_rung(now, 118_800):
        now = rung.arrangement
        seen.append(now)
    assert [(each.tiers.resident, each.tiers.host, each.token_chunk) for each in seen] == [
        (20, 20, 8192), (0, 20, 8192), (0, 20, 2048), (0, 20, 512), (0, 0, 512),
    ]  # fmt: skip
    assert len(seen) <= MOST_RUNGS
    assert all(each.tiers.total == 60 for each in seen)


def test_the_ladder_of_a_tile_ends():
    way, seen = TileWay(), []
    while rung := next_way(way, (17, 32, 32)):
        way = rung.way
        seen.append(way)
    assert seen[0] == TileWay(lean=True)
    assert len(set(seen)) == len(seen) <= MOST_RUNGS


@pytest.mark.parametrize("failure", FAILURES)
def test_every_way_of_saying_it_is_understood(failure):
    assert out_of_memory(FAILURES[failure]())


def test_other_errors_are_not_taken_for_it():
    assert out_of_memory(RuntimeError("shape mismatch")) is None
    assert out_of_memory(OSError(28, "No space left on device")) is None


@pytest.fixture
def small(clean_model, config):
    """A pipeline, a config of two steps, the prompt's conditioning, and what is told."""
    events: list[Event] = []
    pipeline = hvlite.load(clean_model, device="cpu", tier="resident", on_event=events.append, keep_loaded=True)
    config = replace(config, steps=2, height=16, width=16)
    return pipeline, config, pipeline.embed(config), events


def starve_steps(small, numbers: Callable[[int], Iterable[int]]) -> tuple[int, int]:
    """One run with each of these allocations failing: how many gave the same bits, how many a clear error.

    `numbers` chooses among so many allocations of an undisturbed run: the load, the modulation, two steps.
    """
    pipeline, config, conditioning, events = small
    noise = initial_latents(config)
    pipeline.parts.forget("transformer")
    with Starved() as memory:
        wanted = [latents for _, latents in pipeline.denoise(config, conditioning, noise)]
    recovered = refused = 0
    for number in numbers(memory.allocations):
        pipeline.parts.forget("transformer")
        events.clear()
        try:
            with Starved(frozenset({number}), list(FAILURES)[number % len(FAILURES)]) as starved:
                ours = [latents for _, latents in pipeline.denoise(config, conditioning, noise)]
        except MemoryLimitError:
            refused += 1
            continue
        assert starved.failed == 1
        assert all(torch.equal(one, other) for one, other in zip(ours, wanted, strict=True))
        assert any(isinstance(event, Note) and "out of memory in step" in event.text for event in events)
        recovered += 1
    return recovered, refused


def test_an_allocation_that_fails_in_a_step_costs_nothing_but_time(small, quick_collections):
    recovered, refused = starve_steps(small, lambda count: range(BEFORE_THE_LADDER, count, count // SAMPLES))
    assert recovered >= SAMPLES
    assert refused == 0


@pytest.mark.full
@pytest.mark.timeout(1800)
def test_every_allocation_of_a_denoise_may_fail(small, quick_collections, capsys):
    recovered, refused = starve_steps(small, range)
    with capsys.disabled():
        print(f"\nout of memory in a denoise: {recovered} allocations recovered, {refused} ended in a clear error")
    assert recovered > 1000
    assert refused == BEFORE_THE_LADDER


@pytest.mark.parametrize("every", [10, pytest.param(1, marks=pytest.mark.slow)])
def test_an_allocation_that_fails_in_a_decode_costs_nothing_but_time(small, quick_collections, capsys, every):
    """Inside of a tile it is done again; outside there is one error, and the latents are on disk."""
    pipeline, config, _, events = small
    latents = torch.randn(config.latent_shape, generator=torch.Generator().manual_seed(1))
    wanted = torch.cat(list(pipeline.decode(latents)))  # the VAE is loaded from here on
    with Starved() as memory:
        list(pipeline.decode(latents))
    recovered = refused = 0
    for number in range(0, memory.allocations, every):
        events.clear()
        try:
            with Starved(frozenset({number})) as starved:
                chunks = list(pipeline.decode(latents))
        except MemoryLimitError:
            refused += 1
            continue
        assert starved.failed == 1
        assert int((torch.cat(chunks).int() - wanted.int()).abs().max()) <= 1
        recovered += 1
    if every == 1:
        with capsys.disabled():
            print(f"\nout of memory in a decode: {recovered} allocations recovered, {refused} ended in a clear error")
    assert recovered >= 0.85 * (recovered + refused)


def test_what_the_failed_step_held_is_gone_before_the_next_try(small):
    pipeline, config, conditioning, _ = small
    alive: list[int] = []
    pipeline.parts.forget("transformer")
    with Starved() as dry:
        list(pipeline.denoise(config, conditioning, initial_latents(config)))
    pipeline.parts.forget("transformer")
    starved = Starved(frozenset({dry.allocations // 2}))
    pipeline.parts.on_event = lambda event: alive.append(starved.alive_bytes())
    with starved:
        list(pipeline.denoise(config, conditioning, initial_latents(config)))
    noise_bytes = initial_latents(config).nbytes
    assert len(alive) == 1
    assert alive[0] <= 4 * noise_bytes  # the latents of the step before, and no weights


def test_memory_that_never_comes_ends_in_one_error(small):
    pipeline, config, conditioning, events = small
    pipeline.parts.forget("transformer")
    noise = initial_latents(config)
    events.clear()
    with Starved(ALWAYS), pytest.raises(MemoryLimitError, match="out of memory in step 1 of 2") as caught:
        list(pipeline.denoise(config, conditioning, noise))
    assert "are kept" in str(caught.value.hint)
    assert len([event for event in events if isinstance(event, Note)]) <= MOST_RUNGS


def test_a_cap_between_resident_and_streamed_is_met_by_stepping_down(small):
    pipeline, config, conditioning, events = small
    noise = initial_latents(config)
    peaks = {}
    for tier in ("resident", "disk"):
        each = hvlite.load(pipeline.parts.files.root, device="cpu", tier=tier)
        with Capped(1 << 40) as free:
            wanted = [latents for _, latents in each.denoise(config, conditioning, noise)]
        peaks[tier] = free.peak_bytes
    if peaks["disk"] >= peaks["resident"]:
        pytest.skip("two slots hold as much as all blocks of this model")
    pipeline.parts.forget("transformer")
    with Capped((peaks["disk"] + peaks["resident"]) // 2) as capped:
        ours = [latents for _, latents in pipeline.denoise(config, conditioning, noise)]
    assert capped.failed
    assert all(torch.equal(one, other) for one, other in zip(ours, wanted, strict=True))
    assert any("blocks on the device" in event.text for event in events if isinstance(event, Note))
