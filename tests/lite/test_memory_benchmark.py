"""Resident memory is read from outside the process, and a step from disk runs as the benchmark says."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from hvlite.benchmarks.bench_disk_tier import report, resident_bytes, run_step, watch
from hvlite.lite.planning.types import Work
from hvlite.quantize.convert import QuantizeOptions, run_quantize


def test_watch_sees_what_a_process_holds_for_a_moment():
    hold = "import time; a = b'x' * (200 << 20); time.sleep(0.5); del a; print('done')"
    lines, measured = watch([sys.executable, "-c", hold])
    assert lines == ["done"]
    assert 200 << 20 <= measured["peak_anonymous_bytes"] <= measured["peak_rss_bytes"] < 400 << 20


def test_a_run_that_fails_is_no_measurement():
    with pytest.raises(subprocess.CalledProcessError):
        watch([sys.executable, "-c", "raise SystemExit(3)"])


def test_a_process_that_is_gone():
    assert resident_bytes(os.getpid()).keys() == {"VmHWM", "RssAnon", "RssFile"}
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
