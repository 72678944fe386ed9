"""The parity table: every comparison with the official code's outputs, its error beside its limit.

`make parity` writes it to docs/parity.md.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

Compare = Callable[[str, Tensor, Tensor, float], None]

ROWS: dict[str, tuple[float, float]] = {}


@pytest.fixture
def compare() -> Compare:
    """compare(row, ours, official, limit): the largest absolute difference must not pass the limit."""

    def check(row: str, ours: Tensor, official: Tensor, limit: float) -> None:
        assert ours.shape == official.shape, row
        error = float((ours.double() - official.double()).abs().max())
        ROWS[row] = (max(error, ROWS.get(row, (0.0, limit))[0]), limit)
        assert error <= limit, f"{row}: {error:.2e} > {limit:.2e}"
        assert bool(torch.isfinite(ours).all()), row

    return check


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    _tell_counts(terminalreporter)
    if ROWS:
        _tell_parity(terminalreporter)


def _tell_counts(terminalreporter: pytest.TerminalReporter) -> None:
    """How many combinations gave the same bits, and how many sizes were counted, from what the tests recorded."""
    said = [entry for report in terminalreporter.getreports("passed") for entry in report.user_properties]
    same = sum(int(value) for name, value in said if name == "same_bits")
    ratios = [float(value) for name, value in said if name == "accounting"]
    if same:
        terminalreporter.write_line(f"same bits: {same} combinations of tiers, rings, schemes and resumed steps")
    if ratios:
        over = 100 * (max(ratios) - 1)
        terminalreporter.write_line(f"accounting: {len(ratios)} comparisons, never under, at most {over:.2f} % over")


def _tell_parity(terminalreporter: pytest.TerminalReporter) -> None:
    worst = max(ROWS, key=lambda row: ROWS[row][0] / ROWS[row][1])
    share = 100 * ROWS[worst][0] / ROWS[worst][1]
    terminalreporter.write_line(f"parity: {len(ROWS)} rows, the worst at {share:.0f} % of its limit ({worst})")
    target = os.environ.get("HVLITE_PARITY_TABLE")
    if target:
        Path(target).write_text(parity_page(), encoding="utf-8")


def parity_page() -> str:
    lines = [
        "# Parity with the official code",
        "",
        "Largest absolute difference between hvlite and outputs recorded from the official HunyuanVideo code on tiny",
        f"random checkpoints. fp32, CPU, torch {torch.__version__.partition('+')[0]}. Made by `make parity`.",
        "",
        "| what | observed | limit |",
        "|---|---:|---:|",
    ]
    lines += [f"| {row} | {error:.1e} | {limit:.1e} |" for row, (error, limit) in ROWS.items()]
    return "\n".join(lines) + "\n"
