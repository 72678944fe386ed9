"""Every kernel with every launch setting, compiled for every card: no spill, within the limits, on tensor cores.

The whole table takes minutes on two cores; what has not changed since the last run is not compiled again.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from hvlite.benchmarks import bench_compile
from hvlite.cli import app
from hvlite.kernels import tuning
from hvlite.kernels.aot import table
from hvlite.kernels.launch import CAPABILITIES

Row = dict[str, Any]
ROOT = Path(__file__).parents[2]
# How far our attention must be ahead of it by the model, and the product of P and V that makes the path.
MUST = [
    (86, "f16.f16.f16.f16", 1.04),
    (89, "f16.e4m3.e4m3.f16", 1.35),
    (120, "f16.e4m3.e4m3.f16", 1.35),
    (90, "f32.e4m3.e4m3", 1.35),
]
# What sageattention 1.0.6 does on these cards by its authors' measurements, TOPS at 32K tokens, heads of 128.
PUBLISHED_TOPS = {86: 134, 89: 322, 90: 518, 120: 479}


@pytest.fixture(scope="session")
def cache(request: pytest.FixtureRequest) -> Path:
    """Kept between runs, beside pytest's own cache."""
    return Path(request.config.cache.mkdir("kernels"))


@pytest.fixture(scope="session")
def rows(cache: Path) -> list[Row]:
    """The whole table."""
    return table.compile_table(cache=cache)


def bound(rows: Sequence[Row], kernel: str, capability: int) -> float:
    """The bound of the one kernel of this name."""
    (row,) = [row for row in rows if row["kernel"] == kernel and row["capability"] == capability]
    return float(row["bound_tops"])


@pytest.mark.timeout(300)
def test_the_attention_for_one_card_fits(cache: Path) -> None:
    """What `make check` looks at: the kernels that decide the time, on the card most people have."""
    found = table.compile_table([86], "attention", cache=cache)
    assert found, "sageattention's at least"
    assert bench_compile.problems(found) == []


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_every_kernel_fits_every_card(rows: list[Row]) -> None:
    assert bench_compile.problems(rows) == []
    assert {row["capability"] for row in rows} == set(CAPABILITIES)
    for row in rows:
        assert 0 < row["registers"] <= 255, row["kernel"]
        assert row["spill_bytes"] == 0, row["kernel"]
        assert row["blocks_per_sm"] >= 1, row["kernel"]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_every_launch_setting_was_compiled(rows: list[Row]) -> None:
    compiled = {(name, row["capability"]) for row in rows for name in row["tuning"]}
    wanted = {(name, capability) for name, entries in tuning.LAUNCHES.items() for capability in entries}
    assert wanted - compiled == set()


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize(("capability", "instruction", "ratio"), MUST, ids=["3090", "4090", "5090", "H200"])
def test_attention_is_ahead_of_sageattention(rows: list[Row], capability: int, instruction: str, ratio: float) -> None:
    found = [row for row in rows if row["capability"] == capability and row["kernel"].startswith("joint_attention")]
    ours = [
        row["bound_tops"] for row in found if "s32.s8.s8" in row["instruction"] and instruction in row["instruction"]
    ]
    assert max(ours) >= ratio * bound(rows, "sageattention-1.0.6", capability)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("capability", PUBLISHED_TOPS)
def test_the_model_predicts_a_kernel_that_others_measured(rows: list[Row], capability: int) -> None:
    assert bound(rows, "sageattention-1.0.6", capability) == pytest.approx(PUBLISHED_TOPS[capability], rel=0.2)


def test_every_file_with_kernels_is_compiled() -> None:
    from hvlite.kernels.aot import cases

    files = (ROOT / "kernels").glob("*.py")
    found = {path.stem for path in files if re.search(r"^def compile_cases\(", path.read_text("utf-8"), re.MULTILINE)}
    assert found <= set(cases.MODULES)


def test_the_docs_show_the_committed_table() -> None:
    page = bench_compile.DOCS.read_text(encoding="utf-8")
    made = json.loads(bench_compile.RESULTS.read_text(encoding="utf-8"))
    assert bench_compile.with_table(page, bench_compile.docs_text(made)) == page


def test_the_command_prints_the_rows(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table, "default_cache", lambda: cache)
    done = CliRunner().invoke(app, ["bench", "compile", "--json", "--capability", "86", "--only", "sage"])
    assert done.exit_code == 0, done.output
    (row,) = json.loads(done.stdout)
    assert row["kernel"] == "sageattention-1.0.6"
    assert (row["capability"], row["spill_bytes"], row["problem"]) == (86, 0, None)
    assert row["shared_bytes"] == 90124


def test_the_command_fails_where_a_kernel_does_not_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    bad = {"kernel": "a", "capability": 86, "launch": "64 w4 s2", "problem": "spills 8 bytes"}
    monkeypatch.setattr(bench_compile, "compile_table", lambda *given, **named: [bad])
    done = CliRunner().invoke(app, ["bench", "compile"])
    assert done.exit_code != 0
    assert "a, sm_86: spills 8 bytes" in str(done.exception)
    assert "a, sm_86: spills 8 bytes" in done.stdout


def test_ratios_are_to_the_same_card() -> None:
    def row(kernel: str, capability: int, tops: float) -> Row:
        numbers = dict.fromkeys(("registers", "shared_bytes", "spill_bytes", "blocks_per_sm"), 1)
        launch = {"launch": "64 w4 s2", "problem": None, "bound_tops": tops}
        return {"kernel": kernel, "capability": capability, **launch, **numbers}

    made = [row("sageattention-1", 86, 100), row("sageattention-1", 89, 300), row("joint_attention x", 89, 450)]
    assert bench_compile.rows_text(made).splitlines()[3].split()[-1] == "1.50"
    assert "450 (1.50x)" in bench_compile.docs_text({"triton": "3.7", "rows": made})
