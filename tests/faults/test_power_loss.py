"""The power goes at any call; what was not synced is there, lost, torn or out of order. The next run mends it."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from conversions import Conversion
from power_loss import DiskModel, lose_power, power_loss_states
from run_states import GenerateRun
from scenarios import Counts, Scenario, read_tree, record

NAMES = ("new", "resumed", "replaced", "anew")
RUNS = {run.name: run for run in (GenerateRun("generated"), GenerateRun("stopped at step 2", stop_after=2))}


@pytest.fixture(params=[*NAMES, *RUNS])
def scenario(request: pytest.FixtureRequest, conversions: dict[str, Conversion]) -> Scenario:
    found: Scenario = conversions[request.param] if request.param in NAMES else RUNS[request.param]
    return found


def test_the_model_ends_with_the_tree_that_is_there(scenario: Scenario, base: Path) -> None:
    """So no call has passed by it."""
    disk, inodes = record(scenario, base)
    model = DiskModel(scenario.start, inodes, disk.root)
    for call in disk.calls:
        assert call.failed or model.apply(call) in (True, False)
    model.sync()
    assert list(model.states(random.Random(0))) == [read_tree(base)]


@pytest.mark.parametrize("most", [40, pytest.param(None, marks=[pytest.mark.slow, pytest.mark.timeout(900)])])
def test_recovery_from_a_power_loss(scenario: Scenario, base: Path, most: int | None, tried: Counts) -> None:
    counts = lose_power(scenario, base, most=most)
    tried.merge(counts)
    assert counts.total >= 40
    assert counts.violations == []


def test_there_are_enough_states(conversions: dict[str, Conversion], base: Path) -> None:
    total = 0
    for name in NAMES:
        disk, inodes = record(conversions[name], base)
        total += len(power_loss_states(disk, conversions[name].start, inodes))
    assert total >= 1000


@pytest.mark.full
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("seed", range(1, 9))
def test_other_draws(conversions: dict[str, Conversion], base: Path, seed: int, tried: Counts) -> None:
    """Where there are too many combinations, other ones."""
    for name in NAMES:
        counts = lose_power(conversions[name], base, seed=seed)
        tried.merge(counts)
        assert counts.violations == []
