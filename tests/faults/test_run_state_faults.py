"""A `generate` run meets every fault at every call: what is kept is a finished step, bit for bit, or nothing."""

from __future__ import annotations

from pathlib import Path

import pytest
from run_states import GenerateRun
from scenarios import Counts, disturb_for_real, sweep

RUNS = (GenerateRun("generated"), GenerateRun("stopped at step 2", stop_after=2))


@pytest.mark.parametrize("run", RUNS, ids=lambda run: run.name)
def test_every_fault_at_every_call(run: GenerateRun, base: Path, tried: Counts) -> None:
    counts = sweep(run, base)
    tried.merge(counts)
    assert counts.total >= 150
    assert counts.violations == []


@pytest.mark.parametrize("run", RUNS, ids=lambda run: run.name)
def test_processes_that_are_really_killed(run: GenerateRun, base: Path, tried: Counts) -> None:
    counts = sweep(run, base, ("sigkill",), disturb=disturb_for_real)
    tried.merge(counts)
    assert counts.total >= 35
    assert counts.violations == []
