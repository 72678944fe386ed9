"""The schema of results: what is written is read back, and anything else is refused by name."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from hvlite.benchmarks.compare import compare_results, comparison_text
from hvlite.benchmarks.results import (
    BenchFile,
    GateError,
    NotRun,
    Peaks,
    Result,
    Sample,
    Seconds,
    Timeline,
    check_gate,
    parse_results,
    plain_row,
    read_results,
    write_results,
)
from hvlite.benchmarks.tables import results_text, shown
from hvlite.errors import CheckpointError, ConfigError

RESULT = Result(
    part="stream",
    case="64x64x5 host",
    gate="finite",
    seconds=Seconds(median=2.0, least=1.5, most=3.0, runs=5),
    peaks=Peaks(rss_bytes=3 << 30, pinned_bytes=0),
    streamed_bytes=1 << 30,
    values={"tokens": 64, "to_resident_ratio": 1.02, "link_bytes_per_s": None},
    settings={"tier": "host"},
)
MADE = BenchFile(
    made="2026-01-01",
    machine={"device": "2-core x86-64 CPU", "kind": "cpu", "threads": 1},
    versions={"torch": "2.13.0"},
    commit="abc",
    results=(RESULT,),
    timelines=(Timeline(part="stream", case="x", samples=(Sample(at_s=0, stage="denoise", rss_bytes=1),)),),
    not_run=(NotRun(part="vae", reason="no time was left"),),
)


def test_written_and_read_back(tmp_path: Path):
    write_results(tmp_path / "a.json", MADE)
    assert read_results(tmp_path / "a.json") == MADE


def changed(change) -> dict:
    value = json.loads(json.dumps(MADE.to_json()))
    change(value)
    return value


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda value: value.pop("schema"), "not a file of hvlite bench"),
        (lambda value: value.update(schema_version=99), "schema version 99"),
        (lambda value: value.pop("machine"), "machine as well"),
        (lambda value: value.update(extra=1), "the fields of BenchFile"),
        (lambda value: value["results"][0].update(case=3), r"results\[0\].case"),
        (lambda value: value["results"][0]["seconds"].update(runs=1.5), r"results\[0\].seconds.runs"),
        (lambda value: value["results"][0]["peaks"].update(rss_bytes=True), r"peaks.rss_bytes"),
        (lambda value: value["results"][0].update(values=[]), "an object"),
        (lambda value: value["results"][0]["values"].update(tokens=[1]), "values.tokens"),
        (lambda value: value.update(results={}), "a list"),
        (lambda value: value.update(commit=7), "commit"),
    ],
)
def test_wrong_files_are_refused_by_field(change, said):
    with pytest.raises(CheckpointError, match=said):
        parse_results(changed(change), "file")


def test_a_gate_that_does_not_hold_ends_it():
    assert check_gate(True, "finite") == "finite"
    with pytest.raises(GateError, match="equal bits"):
        check_gate(False, "equal bits")


def test_a_row_becomes_plain():
    assert plain_row({"a": 1, "b": float("nan"), "c": (1, 2), "d": None}) == {
        "a": 1,
        "b": None,
        "c": "(1, 2)",
        "d": None,
    }


def test_the_table_has_units_and_what_was_left_out():
    text = results_text(MADE)
    assert "2 s" in text
    assert "3.00 GiB" in text
    assert "1.02x" in text
    assert "not run: vae: no time was left" in text
    assert shown("overlap_share", 0.953) == "95.3%"
    assert shown("x_bytes_per_s", 2.5e9) == "2.50 GB/s"


def test_comparison_takes_shared_cases_and_marks_changes():
    slower = replace(RESULT, seconds=replace(RESULT.seconds, median=3.0))
    rows = compare_results(MADE, replace(MADE, results=(slower,)))
    (time,) = [row for row in rows if row["what"] == "time_s"]
    assert time["ratio"] == 1.5
    lines = comparison_text(rows).splitlines()
    assert any("time_s" in line and line.endswith("*") for line in lines)
    assert not any("tokens" in line and line.endswith("*") for line in lines)
    with pytest.raises(ConfigError, match="no case in common"):
        compare_results(MADE, replace(MADE, results=(replace(RESULT, case="another"),)))
