"""The results page is what the committed results say, and the plots are pictures."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from hvlite.benchmarks.charts import Axis, Chart, Series
from hvlite.benchmarks.page import PAGE, RESULTS, page, read_all
from hvlite.benchmarks.plots import charts_of, write_plots
from hvlite.benchmarks.results import BenchFile, Result, Sample, Seconds, Timeline, write_results

MADE = BenchFile(
    made="2026-01-01",
    machine={"device": "NVIDIA GeForce RTX 4090", "kind": "cuda", "driver": "580.1"},
    versions={"torch": "2.13.0"},
    results=tuple(
        Result(
            part="stream",
            case=f"{case} {tier}",
            gate="finite",
            seconds=Seconds(median=seconds, least=seconds, most=seconds, runs=1),
            values={"tokens": tokens, "tflop_per_s": 1.0, "flop_per_byte": 10.0 * tokens, "link_bytes_per_s": 2e10},
            settings={"tier": tier},
        )
        for case, tokens in (("320x512x33", 5760), ("720x1280x129", 118800))
        for tier, seconds in (("resident", 2.0), ("host", 2.1))
    ),
    timelines=(
        Timeline(
            part="generate",
            case="x",
            samples=(
                Sample(at_s=0, stage="denoise", rss_bytes=1 << 30, allocated_bytes=1 << 33),
                Sample(at_s=9, stage="decode", rss_bytes=2 << 30, allocated_bytes=1 << 31),
            ),
        ),
    ),
)


def test_the_committed_page_is_what_the_results_say():
    assert page(read_all(RESULTS)) == PAGE.read_text(encoding="utf-8"), "run python -m hvlite.benchmarks.page"


def test_nothing_of_the_machine_is_in_the_results():
    for path in RESULTS.glob("*.json"):
        text = path.read_text()
        assert "/work" not in text
        assert "/home" not in text
        assert "/root" not in text


def test_a_measured_card_is_no_longer_open(tmp_path: Path):
    assert "| RTX 4090 | open |" in page({})
    write_results(tmp_path / "a.json", MADE)
    write_results(tmp_path / "b.json", replace(MADE, made="2026-02-02", results=MADE.results[:1]))
    vae = replace(MADE.results[0], part="vae", case="tile")
    write_results(tmp_path / "c.json", replace(MADE, made="2025-12-12", results=(vae,)))
    (tmp_path / "other.json").write_text("{}")
    text = page(read_all(tmp_path))
    assert "| RTX 4090 | open |" not in text
    assert "## NVIDIA GeForce RTX 4090" in text
    assert "2026-02-02" in text  # the newest of a part
    assert "| tile |" in text
    assert "720x1280x129" not in text


def test_plots_are_drawn_where_there_is_something(tmp_path: Path):
    paths = write_plots(MADE, tmp_path / "a.json")
    assert sorted(path.name for path in paths) == [
        "a.memory-0.png",
        "a.roofline.png",
        "a.streamed.png",
        "a.tokens.png",
    ]
    assert all(path.read_bytes().startswith(b"\x89PNG\r\n\x1a\n") for path in paths)
    assert write_plots(replace(MADE, results=(), timelines=()), tmp_path / "b.json") == []
    assert {name for name, _ in charts_of(MADE)} == {"roofline", "tokens", "streamed", "memory-0"}


@pytest.mark.parametrize("log", [False, True])
def test_an_axis_holds_its_values(log):
    values = [0.003, 7.0, 1900.0]
    axis = Axis.over(values, 500, 60, log=log)
    dots = [axis.at(value) for value in values]
    assert dots == sorted(dots, reverse=True)
    assert min(dots) >= 60
    assert max(dots) <= 500
    assert all(60 <= axis.at(tick) <= 500 for tick in axis.ticks())


def test_one_point_and_none():
    assert Chart("a", "x", "y", (Series("s", ((1.0, 1.0),)),)).draw()
    assert Chart("a", "x", "y", ()).draw() is None
