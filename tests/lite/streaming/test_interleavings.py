"""BlockStream on a simulated device whose three queues advance in any order their waits allow.

Work has a beginning and an end, and others run between the two. Slots are poisoned the moment they are released, ring
buffers the moment they are copied. So every missing wait shows as wrong, torn or poisoned data in some interleaving;
the last test breaks the scheduler in every way we could think of and sees that each is caught.
"""

from __future__ import annotations

import importlib.util
import random
import sys
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hvlite.errors import CheckpointError
from hvlite.lite.streaming import block_stream
from hvlite.lite.streaming.copy_queue import HAPPENED

POISON = "poison"
TORN = "torn"


class Memory:
    """A buffer as two halves, each the number of the block it holds."""

    def __init__(self, value: object) -> None:
        self.fill(value)

    def fill(self, value: object) -> None:
        self.halves = [value, value]

    def __getitem__(self, span: slice) -> Memory:
        return self

    @property
    def tensor(self) -> Memory:
        return self


@dataclass
class Source:
    number: int
    ready: Memory | None
    nbytes: int = 1


@dataclass
class Work:
    """An entry of a queue; it is also the event of its end."""

    device: Device
    waits: Sequence[object]
    steps: deque[Callable[[], object]]
    done: bool = False
    error: Exception | None = None

    def happened(self) -> bool:
        self.device.let_time_pass()
        return self.done and self.error is None

    def wait(self) -> None:
        self.device.count_call()
        while not self.done:
            assert self.device.advance_one(), "everything waits for something else"
        if self.error is not None:
            raise self.error

    def may_run(self) -> bool:
        return all(wait is HAPPENED or wait.done for wait in self.waits)

    def run(self) -> None:
        try:
            if self.steps:
                self.steps.popleft()()
        except CheckpointError as error:
            self.error = error
        self.done = not self.steps


@dataclass
class Device:
    """Device and reader in one. `speeds`: how likely each queue is the next to advance."""

    rng: random.Random
    speeds: dict[str, float]
    patience: float
    fails: float = 0.0
    queues: dict[str, deque[Work]] = field(
        default_factory=lambda: {"read": deque(), "copy": deque(), "compute": deque()}
    )
    computed: list[int] = field(default_factory=list)
    keep: set[int] = field(default_factory=set)
    closed: bool = False
    calls: int = 0
    page_lock = None

    def allocate(self, nbytes: int) -> Memory:
        memory = Memory(POISON)
        self._add("compute", (), lambda: None, lambda: memory.fill("the previous owner's"))
        return memory

    def read(self, source: Source, target: Memory, after: object) -> Work:
        def begin() -> None:
            target.halves = [source.number, TORN]

        def end() -> None:
            target.halves[1] = source.number
            if self.rng.random() < self.fails:
                raise CheckpointError("gone")

        return self._add("read", (after,), begin, end)

    def copy(self, target: Memory, source: Memory, after: object) -> Work:
        def begin() -> None:
            target.halves = [source.halves[0], TORN]

        def end() -> None:
            target.halves[1] = source.halves[1]
            if id(source) not in self.keep:
                source.fill(POISON)

        return self._add("copy", (after,), begin, end)

    def compute_after(self, event: object) -> None:
        self._add("compute", (event,))

    def release(self, flat: Memory) -> Work:
        return self._add("compute", (), lambda: flat.fill(POISON))

    def compute(self, flat: Memory, number: int) -> None:
        def check() -> None:
            assert flat.halves == [number, number], f"block {number} was computed with {flat.halves}"

        self._add("compute", (), check, check, lambda: self.computed.append(number))

    def close(self) -> None:
        """As the thread: what has begun ends, the rest is dropped."""
        queue = self.queues["read"]
        while queue and len(queue[0].steps) == 1:
            assert self.advance_one()
        queue.clear()
        self.closed = True

    def _add(self, queue: str, waits: Sequence[object], *steps: Callable[[], object]) -> Work:
        assert queue != "read" or not self.closed
        work = Work(self, waits, deque(steps))
        self.queues[queue].append(work)
        self.let_time_pass()
        return work

    def count_call(self) -> None:
        self.calls += 1
        assert self.calls < 20_000, "the host turns round and round"

    def let_time_pass(self) -> None:
        self.count_call()
        while self.rng.random() < self.patience and self.advance_one():
            pass

    def advance_one(self) -> bool:
        able = [name for name, queue in self.queues.items() if queue and queue[0].may_run()]
        if not able:
            return False
        (name,) = self.rng.choices(able, [self.speeds[each] for each in able])
        queue = self.queues[name]
        queue[0].run()
        if queue[0].done:
            queue.popleft()
        return True

    def finish(self) -> None:
        while self.advance_one():
            pass


def simulate(
    module: ModuleType,
    seed: int,
    *,
    blocks: int,
    slots: int,
    ring: int,
    staged: float,
    passes: int,
    breaks: float,
    fails: float,
) -> int:
    """Some passes over `blocks` blocks, a part of them through the ring; returns how many were computed."""
    rng = random.Random(seed)
    speeds = {name: rng.choice([0.01, 1.0, 100.0]) for name in ("read", "copy", "compute")}
    device = Device(rng, speeds, patience=rng.choice([0.0, 0.5, 0.9]), fails=fails)
    sources = [Source(number, None if rng.random() < staged else Memory(number)) for number in range(blocks)]
    device.keep = {id(source.ready) for source in sources}
    flats = [device.allocate(1) for _ in range(slots)]
    buffers = [Memory(POISON) for _ in range(ring)]
    stream = module.BlockStream(device, device, sources, slots=flats, ring=buffers)
    expected: list[int] = []

    def run_pass(broken: float) -> bool:
        try:
            stream.start_pass()
            for number in range(blocks):
                if rng.random() < 0.3:
                    stream.advance()
                flat = flats[stream.take()]
                device.compute(flat, number)
                expected.append(number)
                if rng.random() < broken:
                    return False
                stream.release()
            stream.end_pass()
        except CheckpointError:
            assert fails
            return False
        return True

    for _ in range(passes):
        run_pass(breaks)
    device.fails = 0.0
    assert run_pass(0) or run_pass(0), "an error of the past came up twice"
    stream.close()
    assert not device.queues["copy"], "a copy is under way after the stream was closed"
    assert not device.queues["read"], "a read is under way after the stream was closed"
    device.finish()
    assert device.computed == expected
    return len(expected)


CASES = {
    "blocks": st.integers(1, 7),
    "slots": st.integers(1, 4),
    "ring": st.integers(1, 4),
    "staged": st.sampled_from([0.0, 0.5, 1.0]),
    "passes": st.integers(1, 4),
    "breaks": st.sampled_from([0.0, 0.0, 0.1]),
    "fails": st.sampled_from([0.0, 0.0, 0.05]),
}


@pytest.mark.timeout(400)
@settings(max_examples=1000, deadline=None)
@given(seed=st.integers(0, 2**32), **CASES)
def test_no_interleaving_computes_with_wrong_weights(seed, **case):
    """Ten interleavings an example: 10,000 in all."""
    for turn in range(10):
        simulate(block_stream, seed + turn, **case)


def random_case(rng: random.Random) -> dict[str, float]:
    return {
        "blocks": rng.randint(1, 7),
        "slots": rng.randint(1, 4),
        "ring": rng.randint(1, 4),
        "staged": rng.choice([0.0, 0.5, 1.0]),
        "passes": rng.randint(1, 4),
        "breaks": rng.choice([0.0, 0.1]),
        "fails": rng.choice([0.0, 0.05]),
    }


MUTANTS = {
    "a copy does not wait for the slot": ("data[:nbytes], slot.free)", "data[:nbytes], HAPPENED)"),
    "a copy does not wait for the slot's first owner": ("Slot(flat, device.release(flat))", "Slot(flat, HAPPENED)"),
    "a release is not remembered": ("slot.free = self._device.release", "self._device.release"),
    "computation does not wait for the copy": (
        "self._device.compute_after(self._copies.popleft())",
        "self._copies.popleft()",
    ),
    "a read does not wait for the copy out of its buffer": (
        "buffer.memory.tensor, buffer.free)",
        "buffer.memory.tensor, HAPPENED)",
    ),
    "a copy out of a buffer is not remembered": ("buffer.free = self._copy(", "self._copy("),
    "a copy does not wait for the read": ("or not self._reads[0].end.happened()", ""),
    "the newest read is waited for, not the oldest": (
        "        try:\n            self._reads[0].end.wait()",
        "        try:\n            self._reads[-1].end.wait()",
    ),
    "reads are taken from the wrong end": ("self._reads.popleft()", "self._reads.pop()"),
    "a slot is filled before its release": (
        "self._released + len(self._slots)",
        "self._released + len(self._slots) + 1",
    ),
    "a ring buffer is filled before it is copied": ("== len(self._ring):", "== len(self._ring) + 1:"),
    "the next slot is handed out": ("index = self._taken %", "index = (self._taken + 1) %"),
    "a block is copied into the wrong slot": ("self._slots[self._copied %", "self._slots[(self._copied // 2) %"),
    "the wrong slot is released": ("self._slots[self._released %", "self._slots[(self._released + 1) %"),
    "one ring buffer does all the work": ("self._staged % len(self._ring)", "0"),
    "ring buffers are not counted on": ("        self._staged += 1\n", ""),
    "every second block is read": (
        "        self._read += 1\n        self._staged",
        "        self._read += 2\n        self._staged",
    ),
    "the first block is not where the pass begins": ("(item - self._first) %", "item %"),
    "a broken pass goes on where it broke": (" or self._taken != self._released", " and False"),
    "a broken pass keeps its slot": ("        if self._taken > self._released:\n            self._give_back()\n", ""),
    "a broken pass keeps its reads": ("        self._reads.clear()  #", "        #"),
    "a broken pass keeps its copies": ("        self._copies.clear()\n", ""),
    "a failed read leaves the stream as it was": (
        "            self._start_over()\n            raise",
        "            raise",
    ),
    "close does not wait for copies": ("        self._last_copy.wait()\n", ""),
    "close leaves the reader alone": ("        self._reader.close()\n", ""),
    "a slot is released when it is taken": (
        "        self._taken += 1\n",
        "        self._taken += 1\n        self._give_back()\n",
    ),
}


@pytest.mark.parametrize("name", MUTANTS)
def test_every_seeded_bug_is_caught(name, tmp_path):
    module = mutated(*MUTANTS[name], tmp_path)
    rng = random.Random(7)
    for _ in range(3000):
        try:
            simulate(module, rng.randrange(2**32), **random_case(rng))
        except Exception:  # noqa: BLE001
            return
    pytest.fail(f"not caught: {name}")


def mutated(old: str, new: str, folder: Path) -> ModuleType:
    """lite/streaming/block_stream.py with one place changed."""
    text = Path(block_stream.__file__).read_text(encoding="utf-8")
    assert text.count(old) == 1, f"the scheduler has no single {old!r} any more: change the list above"
    path = folder / "mutant.py"
    path.write_text(text.replace(old, new), encoding="utf-8")
    spec = importlib.util.spec_from_file_location("hvlite.lite.streaming.block_stream_mutant", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    try:
        spec.loader.exec_module(module)
    finally:
        del sys.modules[spec.name]
    return module
