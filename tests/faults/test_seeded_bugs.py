"""Bugs planted into the real code: a harness that misses one proves nothing about the code without it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from conversions import Conversion
from power_loss import lose_power
from rivals import rivals, rot_journalled
from run_states import GenerateRun
from scenarios import Counts, sweep
from seeded_bugs import CAUGHT_BY, Catch, no_sync_before_rename, written_in_place


def hunt(catch: Catch, conversion: Conversion, base: Path) -> Counts:
    """Try until the bug shows."""
    if catch.by == "power loss":
        return lose_power(conversion, base, until=catch.saying)
    if catch.by == "faults":
        return sweep(conversion, base, until=catch.saying)
    if catch.by == "bit rot":
        return rot_journalled(conversion, base, 200, until=catch.saying)
    return rivals(conversion, base)


@pytest.mark.parametrize("bug", CAUGHT_BY, ids=lambda bug: bug.__name__)
def test_the_harness_catches(
    bug: Callable[[pytest.MonkeyPatch], None],
    conversions: dict[str, Conversion],
    base: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    catch = CAUGHT_BY[bug]
    bug(monkeypatch)
    counts = hunt(catch, conversions[catch.conversion], base)
    assert [line for line in counts.violations if catch.saying in line]


def test_the_harness_catches_a_step_written_in_place(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written_in_place(monkeypatch)
    assert sweep(GenerateRun("generated"), base, ("kill", "torn")).violations


def test_the_harness_catches_a_step_that_is_not_synced(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    no_sync_before_rename(monkeypatch)
    assert lose_power(GenerateRun("generated"), base, until="lost").violations
