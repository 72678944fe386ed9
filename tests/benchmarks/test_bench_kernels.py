"""The kernel benchmark runs on a CPU at its small size, every gate holds, and a wrong operation is not timed."""

from __future__ import annotations

import time

import pytest
import torch

from hvlite.benchmarks import bench_kernels
from hvlite.benchmarks.kernel_cases import CASES, CPU_SIZE, KernelCase, gelu_cases
from hvlite.benchmarks.results import GateError
from hvlite.benchmarks.suite import BenchOptions
from hvlite.kernels import ops, reference


def options(tmp_path, seconds: float) -> BenchOptions:
    return BenchOptions(torch.device("cpu"), time.monotonic() + seconds, tmp_path)


def test_every_case_has_a_time(tmp_path):
    given = options(tmp_path, 60)
    results = {result.case: result for result in bench_kernels.run(given)}
    assert {"modulated_norm", "gated_residual_", "int8_mm", "fp8_mm", "group_norm_silu"} <= results.keys()
    assert {"DoubleStreamBlock", "SingleStreamBlock"} <= results.keys()
    assert all(result.seconds and result.seconds.median > 0 for name, result in results.items() if name != "copy")
    assert results["DoubleStreamBlock"].values["eager_to_ours_memory_ratio"] > 1
    assert not given.skipped


def test_codes_that_took_the_place_of_their_tokens_are_not_judged(monkeypatch):
    """On a card gelu_codes_ uses its input up; the case after it looks at tokens that nothing has touched."""

    def used_up(x, dtype, gelu_from=0):
        found = reference.gelu_codes(x, dtype, gelu_from)
        x.fill_(float("nan"))
        return found

    monkeypatch.setattr(ops, "gelu_codes_", used_up)
    for case in gelu_cases(torch.device("cpu"), CPU_SIZE):
        assert case.error() <= case.limit
        case.work()


def test_what_has_no_time_left_is_named(tmp_path):
    given = options(tmp_path, 0)
    assert [result.case for result in bench_kernels.run(given)] == ["copy"]
    assert any("modulated_norm" in each.reason for each in given.skipped)


def test_a_wrong_operation_is_not_timed(tmp_path, monkeypatch):
    def wrong(device, size):
        yield KernelCase(name="wrong", work=lambda: pytest.fail("timed"), error=lambda: 0.5, limit=0.1)

    monkeypatch.setattr(bench_kernels, "CASES", [wrong, *CASES])
    with pytest.raises(GateError, match=r"wrong: relative error 0\.5"):
        list(bench_kernels.run(options(tmp_path, 60)))
