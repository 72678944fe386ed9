"""The results page is what the committed results say, and the plots are pictures."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from hvlite.benchmarks.page import PAGE, RESULTS, page, read_all
from hvlite.benchmarks.plots import charts_of, write_plots
from hvlite.benchmarks.results import SCHEMA, BenchFile, Result, Sample, Seconds, Timeline, read_results, write_results
from hvlite.charts.chart import Chart
from hvlite.files import read_json

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

STAGES = ((0, "text"), (2, "denoise"), (5, ""))


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


def chart(name: str, made: BenchFile = MADE) -> Chart:
    return dict(charts_of(made))[name]


def test_the_roofline_says_what_each_roof_is():
    resident, host, link, level = chart("roofline").series
    assert (resident.name, host.name) == ("resident", "host")
    assert resident.points == host.points == ((57600, 1), (1188000, 1))
    assert resident.labels == ("320x512x33", "720x1280x129")  # once for each place
    assert host.labels == ("", "")
    assert link.labels[1] == "link to the card 20 GB/s"
    assert all(y == pytest.approx(x * 2e10 / 1e12) for x, y in link.points)
    assert level.labels[1] == "best measured 1 TFLOP/s"
    assert {y for _, y in level.points} == {1}
    assert link.points[-1] == (50, 1)  # from where on the link is no limit
    assert level.points[0] == link.points[-1]
    assert level.points[-1][0] > 1188000


def test_a_roof_above_all_that_was_measured_reaches_the_best():
    slow = replace(MADE.results[0], values={**MADE.results[0].values, "disk_bytes_per_s": 1e5})
    *_, disk, level = chart("roofline", replace(MADE, results=(slow,))).series
    assert disk.labels[1] == "disk 0.0001 GB/s"
    assert disk.points[-1][0] == pytest.approx(1e7)
    assert level.points[-1][0] > 1e7


def test_step_times_stand_over_their_tokens_which_are_named():
    tokens = chart("tokens")
    assert [(series.name, series.points) for series in tokens.series] == [
        ("resident", ((5760, 2), (118800, 2))),
        ("host", ((5760, 2.1), (118800, 2.1))),
    ]
    assert tokens.ticks == ((5760, "5,760\n320x512x33"), (118800, "118,800\n720x1280x129"))
    assert "NVIDIA GeForce RTX 4090, torch 2.13.0, 2026-01-01" in tokens.note


def test_streamed_and_resident_are_bars_of_one_group():
    bars = chart("streamed")
    assert [(each.name, each.shape, each.points, each.labels) for each in bars.series] == [
        ("resident", "bars", ((0, 2), (1, 2)), ("2.00", "2.00")),
        ("host", "bars", ((0, 2.1), (1, 2.1)), ("2.10", "2.10")),
    ]
    assert [each.ranges for each in bars.series] == [((2, 2), (2, 2)), ((2.1, 2.1), (2.1, 2.1))]
    assert bars.ticks == ((0, "320x512x33"), (1, "720x1280x129"))


def test_memory_is_over_time_and_its_stages_are_named():
    memory = chart("memory-0")
    assert memory.y_name == "memory (GiB)"
    assert [(each.name, each.points) for each in memory.series] == [
        ("host", ((0, 1), (9, 2))),
        ("device, allocated", ((0, 8), (9, 2))),
    ]
    samples = [Sample(at_s=at, stage=stage, rss_bytes=300 << 20) for at, stage in STAGES]
    small = chart("memory-0", replace(MADE, timelines=(Timeline(part="generate", case="x", samples=tuple(samples)),)))
    assert small.y_name == "memory (MiB)"
    assert [(span.start, span.end, span.name.split()[0]) for span in small.spans[:2]] == [
        (0, 2, "text"),
        (2, 5, "denoise"),
    ]
    assert small.series[0].points == ((0, 300), (2, 300), (5, 300))


def test_the_committed_results_can_be_drawn(tmp_path: Path):
    for path in RESULTS.glob("*.json"):
        if read_json(path).get("schema") == SCHEMA:
            for png in write_plots(read_results(path), tmp_path / path.name):
                assert png.read_bytes().startswith(b"\x89PNG")
