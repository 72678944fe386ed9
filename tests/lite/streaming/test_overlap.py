"""BlockStream against a virtual clock: copies hide behind computation, or the slowest queue never idles.

Times are those of a model of a machine, not of one: they prove the schedule, not a speed.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field

import pytest
import torch

from hvlite.lite.streaming.block_stream import BlockStream
from hvlite.lite.streaming.tiers import TierCounts, spread_tiers

EMPTY = torch.empty(0, dtype=torch.uint8)


@dataclass
class Moment:
    """An event with the time it happens at."""

    clock: Clock
    time: float

    def happened(self) -> bool:
        return self.clock.now >= self.time

    def wait(self) -> None:
        self.clock.now = max(self.clock.now, self.time)


@dataclass
class Clock:
    """Device and reader. A queue starts its next work once it is free, was told to, and all waits are over.

    `launch_s`: what it costs the host to queue one thing; `jitter`: how much longer than planned anything may take.
    """

    read_s: float
    copy_s: float
    launch_s: float = 0.0
    jitter: float = 0.0
    rng: random.Random = field(default_factory=lambda: random.Random(11))
    now: float = 0.0
    free: dict[str, float] = field(default_factory=lambda: {"read": 0.0, "copy": 0.0, "compute": 0.0})
    busy: dict[str, float] = field(default_factory=lambda: {"read": 0.0, "copy": 0.0, "compute": 0.0})
    page_lock = None

    def read(self, source, target, after) -> Moment:
        return self.queue("read", self.read_s * source.nbytes, after)

    def copy(self, target, source, after) -> Moment:
        return self.queue("copy", self.copy_s * len(source), after)

    def compute(self, seconds: float) -> None:
        self.queue("compute", seconds)

    def compute_after(self, event) -> None:
        self.free["compute"] = max(self.free["compute"], getattr(event, "time", 0.0))

    def release(self, flat) -> Moment:
        return Moment(self, self.free["compute"])

    def allocate(self, nbytes: int):
        return range(nbytes)

    def close(self) -> None:
        pass

    def queue(self, name: str, seconds: float, after=None) -> Moment:
        self.now += self.launch_s
        seconds *= 1 + self.rng.random() * self.jitter
        start = max(self.now, self.free[name], getattr(after, "time", 0.0))
        self.free[name] = start + seconds
        self.busy[name] += seconds
        return Moment(self, self.free[name])


@dataclass(frozen=True)
class Block:
    nbytes: int
    ready: range | None


@dataclass(frozen=True)
class Buffer:
    tensor: range


def run(clock: Clock, blocks, tiers, *, slots=2, ring=2, steps=3) -> float:
    """Seconds of some steps; blocks: (bytes, seconds of computation). The host waits for the device after each step."""
    sources = [
        Block(nbytes, None if tier == "disk" else range(nbytes))
        for (nbytes, _), tier in zip(blocks, tiers, strict=True)
        if tier != "resident"
    ]
    largest = max(nbytes for nbytes, _ in blocks)
    flats = [clock.allocate(largest) for _ in range(slots)]
    stream = BlockStream(clock, clock, sources, slots=flats, ring=[Buffer(range(largest)) for _ in range(ring)])
    for _ in range(steps):
        stream.start_pass()
        for (_, seconds), tier in zip(blocks, tiers, strict=True):
            if tier == "resident":
                stream.advance()
                clock.compute(seconds)
            else:
                stream.take()
                clock.compute(seconds)
                stream.release()
        stream.end_pass()
        clock.now = max(clock.now, clock.free["compute"])
    return clock.now


@pytest.mark.parametrize("ring", [1, 2, 3, 4])
@pytest.mark.parametrize("tier", ["host", "disk"])
def test_copies_hide_behind_computation(tier, ring):
    """Copy and read each take 0.4 of a block's computation: only the first block of all is waited for."""
    blocks = [(1, 1.0)] * 20
    clock = Clock(read_s=0.4, copy_s=0.4)
    total = run(clock, blocks, [tier] * 20, ring=ring)
    assert total <= 60 + 0.8 + 1e-9


@pytest.mark.parametrize("slots", [2, 3])
def test_copies_that_just_fit_hide_too(slots):
    """A copy of 0.95 of the computation, with two slots: nothing is lost but the start."""
    clock = Clock(read_s=0.95, copy_s=0.95)
    total = run(clock, [(1, 1.0)] * 20, ["disk"] * 20, slots=slots, ring=2)
    assert total <= 60 * 1.02 + 1.9


@pytest.mark.parametrize(("read_s", "copy_s", "slowest"), [(3.0, 0.5, "read"), (0.5, 3.0, "copy")])
def test_the_slowest_queue_never_idles(read_s, copy_s, slowest):
    """A disk or bus that is too slow sets the pace, and works all the time."""
    clock = Clock(read_s=read_s, copy_s=copy_s)
    total = run(clock, [(1, 1.0)] * 20, ["disk"] * 20, steps=5)
    assert 100 * 3.0 <= total <= 100 * 3.0 * 1.02 + 5
    assert clock.busy[slowest] / clock.free[slowest] > 0.97


def test_one_slot_would_not_do():
    """The comparison above can fail: with one slot each copy waits for the computation before it."""
    assert run(Clock(read_s=0.1, copy_s=0.9), [(1, 1.0)] * 20, ["host"] * 20, slots=1) > 60 * 1.5


def test_spread_blocks_hide_what_clumped_blocks_do_not():
    """Copies of 1.9 times the computation, half of the blocks resident: hidden where they are spread."""
    blocks = [(1, 1.0)] * 40
    spread = run(Clock(1.0, 1.9), blocks, spread_tiers(TierCounts(20, 20, 0)))
    clumped = run(Clock(1.0, 1.9), blocks, ["resident"] * 20 + ["host"] * 20)
    assert spread <= 120 * 1.02 + 2
    assert clumped > 120 * 1.2


@pytest.mark.parametrize("seed", range(20))
def test_random_delays_are_absorbed(seed):
    """Everything takes up to half longer at random; mean work is 0.75 of the computation's: under 1 % is lost."""
    clock = Clock(read_s=0.6, copy_s=0.6, launch_s=0.002, jitter=0.5, rng=random.Random(seed))
    total = run(clock, [(1, 1.0)] * 60, ["disk"] * 60, slots=3, ring=3)
    assert total <= clock.busy["compute"] * 1.01 + 2


MB, SECONDS_PER_MB = 1, 1e-3
FULL_SIZE = [(226 * MB, 0.474)] * 20 + [(113 * MB, 0.474)] * 40  # 8-bit blocks; 720x1280x129 on a 24 GB card


@pytest.mark.parametrize(
    ("tier", "disk_gb_s", "bus_gb_s", "ring"),
    [("disk", 3.5, 25, 1), ("disk", 3.5, 25, 2), ("disk", 3.5, 12, 2), ("disk", 1.0, 12, 2), ("host", 3.5, 12, 2)],
)
def test_full_size_streaming_costs_under_two_percent(tier, disk_gb_s, bus_gb_s, ring):
    """The goal at 720p, for the tabulated bandwidths and computation times: at most 2 % over resident weights."""
    clock = Clock(SECONDS_PER_MB / disk_gb_s, SECONDS_PER_MB / bus_gb_s, launch_s=50e-6, jitter=0.2)
    total = run(clock, FULL_SIZE, [tier] * 60, ring=ring, steps=2)
    assert total <= clock.busy["compute"] * 1.02
