"""A conversion meets every fault at every call: it dies or ends with a DiskError, and the next run makes up for it."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import conversions as harness
import pytest
from conversions import Conversion
from scenarios import IN_PROCESS, Counts, differences, disturb_for_real, fault_points, fresh, read_tree, record, sweep

from hvlite.quantize import convert

NAMES = ("new", "resumed", "replaced", "anew")


@pytest.mark.parametrize("name", NAMES)
def test_the_harness_sees_every_change(conversions: dict[str, Conversion], base: Path, name: str) -> None:
    """Every write, rename and sync passes by it, and an undisturbed run ends as it should."""
    disk, _ = record(conversions[name], base)
    seen = {call.name for call in disk.calls}
    assert {"open", "write", "fsync", "close", "rename", "unlink", "rmdir", "opendir", "fsyncdir", "lock"} <= seen
    assert conversions[name].lost_when_done(base) == []
    assert disk.trespasses == []


@pytest.mark.parametrize("name", NAMES)
def test_some_faults(conversions: dict[str, Conversion], base: Path, name: str) -> None:
    counts = sweep(conversions[name], base, most=30)
    assert counts.total >= 25
    assert counts.violations == []


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", NAMES)
def test_every_fault_at_every_call(conversions: dict[str, Conversion], base: Path, name: str, tried: Counts) -> None:
    counts = sweep(conversions[name], base)
    tried.merge(counts)
    assert counts.violations == []
    # The few calls that fail of themselves cannot also be done and reported as failed.
    assert counts.total >= 0.95 * len(fault_points(conversions[name], base, IN_PROCESS))


def test_there_are_enough_fault_points(conversions: dict[str, Conversion], base: Path) -> None:
    assert sum(len(fault_points(conversions[name], base, IN_PROCESS)) for name in NAMES) >= 2500


@pytest.mark.parametrize("name", NAMES)
def test_processes_that_are_really_killed(
    conversions: dict[str, Conversion], base: Path, name: str, tried: Counts
) -> None:
    counts = sweep(conversions[name], base, ("sigkill",), most=15, disturb=disturb_for_real)
    tried.merge(counts)
    assert counts.total == 15
    assert counts.violations == []


def test_a_storm_of_signals_changes_nothing(conversions: dict[str, Conversion], base: Path) -> None:
    """A timer interrupts the system calls of a run as often as it can."""
    heard: list[int] = []
    before = signal.signal(signal.SIGALRM, lambda number, frame: heard.append(number))
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.0002, 0.0002)
        for _ in range(3):
            folder = fresh(conversions["new"], base)
            conversions["new"].run(folder)
            assert conversions["new"].lost_when_done(folder) == []
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert len(heard) > 20


def test_threads_and_their_number_change_no_byte(
    conversions: dict[str, Conversion], base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(convert, "_workers", harness.with_threads)
    for workers in (1, 4):
        tree = harness.finished_tree(conversions["new"].source, base / str(workers), workers=workers)
        assert differences(tree, conversions["new"].wanted) == []


@pytest.mark.full
@pytest.mark.timeout(3600)
def test_a_second_crash_while_the_first_is_made_up_for(
    conversions: dict[str, Conversion], base: Path, tried: Counts
) -> None:
    """Crashed at a tenth of the calls, then disturbed at every call of the recovery."""
    undisturbed, _ = record(conversions["new"], base)
    for index in range(0, len(undisturbed.calls), 10):
        crashed = harness.crashed_at(conversions["new"], base, index)
        counts = sweep(crashed, base)
        tried.merge(counts)
        assert counts.violations == []


@pytest.fixture(scope="session")
def whole_model(golden: Path, tmp_path_factory: pytest.TempPathFactory) -> Conversion:
    """All four parts of the golden official tree, with its tokenizers."""
    source = golden / "ckpts_official"
    with pytest.MonkeyPatch.context() as patch:
        harness.make_it_fast(patch)
        tree = harness.finished_tree(source, tmp_path_factory.mktemp("whole") / "model", parts=())
    return Conversion("whole", source, tree, {"parts": ()})


@pytest.mark.parametrize("most", [12, pytest.param(None, marks=[pytest.mark.full, pytest.mark.timeout(3600)])])
def test_a_whole_model(whole_model: Conversion, base: Path, most: int | None, tried: Counts) -> None:
    before = read_tree(whole_model.source)
    counts = sweep(whole_model, base, most=most)
    tried.merge(counts)
    assert counts.violations == []
    assert read_tree(whole_model.source) == before


def test_no_descriptor_is_left_open(conversions: dict[str, Conversion], base: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    sweep(conversions["new"], base, most=40, seed=1)
    assert len(os.listdir("/proc/self/fd")) == before
