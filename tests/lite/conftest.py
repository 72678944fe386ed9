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
    if not ROWS:
        return
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
