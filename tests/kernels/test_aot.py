"""The ahead-of-time check: it passes a good kernel and names what is wrong with each bad one."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from hvlite.errors import HvliteError, MissingPartError
from hvlite.kernels import triton_state
from hvlite.kernels.aot import table

SAMPLES = str(Path(__file__).with_name("aot_samples.py"))
pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Any]:
    """The rows of the sample kernels for an RTX 3090, by name."""
    cache = tmp_path_factory.mktemp("kernels")
    rows = table.compile_table([86], modules=[SAMPLES], cache=cache)
    assert list(cache.glob("*.json")), "measurements are kept"
    assert table.compile_table([86], modules=[SAMPLES], cache=cache) == rows, "what was kept is what was measured"
    return {row["kernel"]: row for row in rows}


def test_a_good_kernel_has_no_problem(samples: Mapping[str, Any]) -> None:
    row = samples["good"]
    assert row["problem"] is None
    assert (row["capability"], row["spill_bytes"], row["launch"]) == (86, 0, "64x64x32 w4 s2")
    assert 0 < row["registers"] <= 255
    assert 0 < row["shared_bytes"] <= 99 * 1024
    assert "m16n8k16.row.col.f32.f16.f16.f32" in row["instruction"]
    assert 0 < row["bound_tops"] < row["tensor_tops"]


def test_spills_are_found(samples: Mapping[str, Any]) -> None:
    assert samples["spilling"]["spill_bytes"] > 0
    assert f"spills {samples['spilling']['spill_bytes']} bytes" in samples["spilling"]["problem"]


def test_too_much_shared_memory_is_found(samples: Mapping[str, Any]) -> None:
    assert samples["shared"]["shared_bytes"] > 99 * 1024
    assert "shared memory; RTX 3090 has 101,376" in samples["shared"]["problem"]


def test_a_missing_tensor_core_instruction_is_found(samples: Mapping[str, Any]) -> None:
    assert samples["scalar"]["instruction"] is None
    assert samples["scalar"]["problem"] == "no tensor-core instruction f32.f16.f16; found none"


def test_what_does_not_compile_is_a_row(samples: Mapping[str, Any]) -> None:
    assert samples["narrow"]["problem"].startswith("does not compile: CompilationError")


def test_the_interpreter_and_triton_settings_do_not_reach_the_compiler(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path / "elsewhere"))
    rows = table.compile_table([89], "good", modules=[SAMPLES], cache=tmp_path / "cache")
    assert [(row["kernel"], row["problem"]) for row in rows] == [("good", None)]
    assert not (tmp_path / "elsewhere").exists()
    assert os.environ["TRITON_INTERPRET"] == "1"


def test_a_failing_worker_is_an_error(tmp_path: Path) -> None:
    broken = tmp_path / "broken.py"
    broken.write_text("raise RuntimeError('no such kernel')\n", encoding="utf-8")
    with pytest.raises(HvliteError, match="RuntimeError: no such kernel"):
        table.compile_table([86], modules=[str(broken)], cache=tmp_path / "cache")


def test_without_triton_a_part_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    state = triton_state.TritonState(None, False, "not installed")
    monkeypatch.setattr(triton_state, "installed_triton", lambda: state)
    with pytest.raises(MissingPartError, match="hvlite bench compile needs Triton"):
        table.compile_table(cache=tmp_path)
