from __future__ import annotations

from pathlib import Path

import pytest

from hvlite.benchmarks.soak import LIMIT_KIB, Left, chart_of, slope_kib, soak
from hvlite.quantize.convert import QuantizeOptions, run_quantize


@pytest.fixture(scope="module")
def model(golden: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("soak") / "fp8"
    run_quantize(QuantizeOptions(golden / "ckpts_diffusers", output, text_encoder="bf16", workers=1))
    return output


def test_the_slope_is_that_of_the_steady_jobs() -> None:
    grown = [Left(1 << 30, 9, 1)] * 5 + [Left((1 << 20) + 2048 * index, 9, 1) for index in range(20)]
    assert slope_kib(grown, 5) == pytest.approx(2.0)


def test_the_plot_shows_every_job_and_the_line_of_that_slope() -> None:
    found = [Left(1 << 29, 9, 1)] * 5 + [Left((1 << 30) + 2048 * index, 9, 1) for index in range(20)]
    measured, fit = chart_of(found, 5).series
    assert [y for _, y in measured.points] == [each.rss_bytes / 2**20 for each in found]
    (first, low), (last, high) = fit.points
    assert (first, last) == (5, 24)
    assert (low, high) == pytest.approx((1024, 1024 + 2 * 19 / 1024))
    assert "2.00 KiB a job" in fit.name


@pytest.mark.slow
def test_forty_jobs_leave_no_file_and_no_thread_behind(model: Path, tmp_path: Path) -> None:
    found = soak(model, 40, tmp_path)
    assert found[-1].open_files == found[10].open_files
    assert found[-1].threads == found[10].threads
    assert slope_kib(found, 20) < 40 * LIMIT_KIB  # the allocator is still warming up: only a real leak is this steep


@pytest.mark.full
@pytest.mark.timeout(3600)
def test_five_hundred_jobs_take_no_more_memory(model: Path, tmp_path: Path) -> None:
    found = soak(model, 500, tmp_path)
    assert slope_kib(found, 50) <= LIMIT_KIB
    assert found[-1].open_files == found[50].open_files
    assert found[-1].threads == found[50].threads
