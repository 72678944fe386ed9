"""Bits that flip on the disk: `verify` finds each in a finished folder, the next run each in an unfinished one."""

from __future__ import annotations

from pathlib import Path

import pytest
from conversions import Conversion
from rivals import rot_finished, rot_journalled
from scenarios import Counts


@pytest.mark.parametrize("flips", [200, pytest.param(2000, marks=pytest.mark.full)])
def test_verify_finds_every_flipped_bit(
    conversions: dict[str, Conversion], base: Path, flips: int, tried: Counts
) -> None:
    counts = rot_finished(conversions["new"], base, flips)
    tried.merge(counts)
    assert counts.total == flips
    assert counts.violations == []


@pytest.mark.parametrize("flips", [200, pytest.param(2000, marks=[pytest.mark.full, pytest.mark.timeout(600)])])
def test_a_resumed_run_finds_every_flipped_bit(
    conversions: dict[str, Conversion], base: Path, flips: int, tried: Counts
) -> None:
    counts = rot_journalled(conversions["new"], base, flips)
    tried.merge(counts)
    assert counts.total == flips
    assert counts.violations == []
