"""Resident memory is read from outside the process, and a step from disk runs as the benchmark says."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from hvlite.benchmarks.bench_disk_tier import report, run_step, stage_rows
from hvlite.benchmarks.outside import Peaks, Stages, resident_bytes, watch
from hvlite.lite.planning.types import Work
from hvlite.quantize.convert import QuantizeOptions, run_quantize


def test_watch_sees_what_a_process_holds_for_a_moment():
    hold = "import time; a = b'x' * (200 << 20); time.sleep(0.5); del a; print('done')"
    lines, measured = watch([sys.executable, "-c", hold])
    assert lines == ["done"]
    assert 200 << 20 <= measured["peak_anonymous_bytes"] <= measured["peak_rss_bytes"] < 400 << 20
    assert measured["peak_rss_by_stage"] == {"start": measured["peak_rss_bytes"]}


def test_watch_gives_each_stage_what_it_held():
    hold = """
import time
def stage(name, mib):
    print('{"event": "stage_started", "stage": "' + name + '"}', flush=True)
    time.sleep(0.3)
    a = b"x" * (mib << 20)
    time.sleep(0.3)
stage("embed", 300); stage("denoise", 50); stage("decode", 150)
"""
    _, measured = watch([sys.executable, "-c", hold])
    held = measured["peak_rss_by_stage"]
    assert held["embed"] == measured["peak_rss_bytes"] > 300 << 20
    assert 50 << 20 < held["denoise"] < 100 << 20
    assert 150 << 20 < held["decode"] < 200 << 20


def test_a_stage_gets_the_peak_between_two_readings():
    peaks = Peaks()
    peaks.see("embed", {"VmRSS": 5, "VmHWM": 9, "RssAnon": 4, "RssFile": 1})
    peaks.see("denoise", {"VmRSS": 6, "VmHWM": 9, "RssAnon": 5, "RssFile": 1})
    peaks.see("denoise", {})
    assert (peaks.all_bytes, peaks.anonymous_bytes, peaks.by_stage) == (9, 5, {"embed": 9, "denoise": 6})


def test_half_a_line_says_no_stage(tmp_path):
    path, stages = tmp_path / "out", Stages()
    with path.open("w") as out, path.open() as said:
        for part, name in (
            ('{"event": "stage_sta', "start"),
            ('rted", "stage": "embed"}\n{"event": "note"}\n', "embed"),
        ):
            out.write(part)
            out.flush()
            stages.follow(said)
            assert stages.name == name


def test_a_stage_stands_beside_the_largest_that_was_planned_for_it():
    planned = {name: {"ram_bytes": index} for index, name in enumerate(("text", "denoise", "modulation", "write"))}
    planned["decode"] = {"ram_bytes": 1}
    rows = stage_rows(planned, {"start": 7, "embed": 8, "denoise": 9, "decode": 10})
    assert [tuple(row.values()) for row in rows] == [("embed", 0, 8), ("denoise", 2, 9), ("decode", 3, 10)]


def test_a_run_that_fails_is_no_measurement():
    with pytest.raises(subprocess.CalledProcessError):
        watch([sys.executable, "-c", "raise SystemExit(3)"])


def test_a_process_that_is_gone():
    assert resident_bytes(os.getpid()).keys() == {"VmHWM", "VmRSS", "RssAnon", "RssFile"}
    assert resident_bytes(2**22 + 1) == {}


def test_a_step_from_disk(golden, tmp_path):
    folder = tmp_path / "fp8"
    run_quantize(QuantizeOptions(golden / "ckpts_diffusers", folder, parts=("transformer",), workers=1))
    done = run_step(folder, [32, 48, 5, 2, 1024])
    files = list((folder / "transformer").glob("*_blocks.*.safetensors"))
    assert done == {"blocks": 4, "finite": True, "streamed_bytes": 2 * sum(path.stat().st_size for path in files)}


def test_the_report_says_what_passed_its_plan():
    run = {"peak_rss_bytes": 5, "cap_bytes": 6, "planned_bytes": 4}
    (said,) = report([run], Work(height=64, width=64, frames=5, steps=1), "all")["runs"]
    assert (said["under_cap"], said["under_plan"]) == (True, False)
