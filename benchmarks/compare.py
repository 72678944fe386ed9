"""Two files of results side by side: the cases that both have, and what changed by how much."""

from __future__ import annotations

from typing import Any

from ..errors import ConfigError
from .results import BenchFile, Result
from .tables import aligned, shown

CHANGED = 0.05  # less than that is noise on most machines


def compare_results(before: BenchFile, after: BenchFile) -> list[dict[str, Any]]:
    """A row for each number that both have: part, case, what, before, after, ratio. ConfigError where there is none."""
    old = {(result.part, result.case): result for result in before.results}
    rows = [row for new in after.results if (new.part, new.case) in old for row in _rows(old[new.part, new.case], new)]
    if not rows:
        raise ConfigError("the two files have no case in common", hint="compare runs of the same parts")
    return rows


def comparison_text(rows: list[dict[str, Any]]) -> str:
    """The rows as a table; what changed by more than 5 % is marked."""
    table = [["part", "case", "what", "before", "after", "after/before", ""]]
    for row in rows:
        numbers = [shown(row["what"], row[name]) for name in ("before", "after")]
        mark = "*" if abs(row["ratio"] - 1) > CHANGED else ""
        table.append([row["part"], row["case"], row["what"], *numbers, f"{row['ratio']:.3f}", mark])
    return "\n".join(aligned(table))


def _rows(old: Result, new: Result) -> list[dict[str, Any]]:
    before, after = _numbers(old), _numbers(new)
    return [
        {
            "part": new.part,
            "case": new.case,
            "what": name,
            "before": before[name],
            "after": value,
            "ratio": value / before[name],
        }
        for name, value in after.items()
        if before.get(name)
    ]


def _numbers(result: Result) -> dict[str, float]:
    """Every number of a result by its name."""
    found: dict[str, Any] = {}
    if result.seconds:
        found["time_s"] = result.seconds.median
    if result.peaks:
        found |= {f"peak_{name}": value for name, value in vars(result.peaks).items()}
    found |= {"streamed_bytes": result.streamed_bytes, **result.values}
    return {
        name: value for name, value in found.items() if isinstance(value, int | float) and not isinstance(value, bool)
    }
