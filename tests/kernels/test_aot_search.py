"""The search puts candidates where the table's entry would be, and leaves the table as it was."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from hvlite.kernels import tuning
from hvlite.kernels.aot import search
from hvlite.kernels.launch import CompileCase, Launch

START = Launch({"BM": 64, "BN": 32}, 4, 2, "a")
FIXED = Launch({"BLOCK": 8}, 4, 1, "b")


@pytest.fixture
def table(monkeypatch: pytest.MonkeyPatch) -> dict[str, dict[int, Launch]]:
    entries = {"some_kernel": {86: START, 89: START}, "other_kernel": {86: FIXED}}
    monkeypatch.setattr(tuning, "LAUNCHES", entries)
    tuning.launch_for.cache_clear()
    return entries


def case(kernel: str, capability: int) -> CompileCase:
    launch = tuning.launch_for(kernel, capability)
    return CompileCase(
        name=kernel, kernel=None, capability=capability, signature={}, constexprs=dict(launch.tiles), launch=launch
    )


def test_every_combination_is_a_candidate() -> None:
    grid = list(search.candidates(START, {"BM": [64, 128]}, [4, 8], []))
    assert [(launch.tiles, launch.num_warps, launch.num_stages) for launch in grid] == [
        ({"BM": size, "BN": 32}, warps, 2) for size in (64, 128) for warps in (4, 8)
    ]


def test_a_module_sees_the_candidate_for_a_moment(table: dict[str, Any]) -> None:
    module = SimpleNamespace(compile_cases=lambda cap: [case("some_kernel", cap), case("other_kernel", cap)])
    tried = Launch({"BM": 16, "BN": 16}, 8, 3, "tried")
    (made,) = search.cases_with(module, "some_kernel", 86, tried)
    assert (made.launch, made.constexprs) == (tried, {"BM": 16, "BN": 16})
    assert tuning.LAUNCHES is table
    assert tuning.launch_for("some_kernel", 86) is START


def test_the_highest_bound_is_first_and_problems_are_counted() -> None:
    def row(launch: str, tops: float | None, problem: str | None = None) -> dict[str, Any]:
        numbers = {"registers": 1, "shared_bytes": 2, "blocks_per_sm": 3}
        return {"kernel": "k", "launch": launch, "bound_tops": tops, "problem": problem, **numbers}

    lines = search.ranked([row("a", 1.0), row("b", 3.0, "spills"), row("c", 2.0), row("d", None)])
    assert [line.split("TOPS")[1].split()[0] for line in lines[:3]] == ["c", "a", "d"]
    assert lines[3] == "1 of 4 have a problem"
