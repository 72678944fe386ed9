"""The accuracy table: every variant on every kind of data, and a variant beyond its limit is seen."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from hvlite.benchmarks import bench_accuracy
from hvlite.cli import app
from hvlite.kernels.attention_variant import VARIANTS


def test_every_variant_is_within_its_limits_on_all_data():
    rows = bench_accuracy.run(tokens=500)
    assert {(row["variant"], row["data"]) for row in rows} == {(a, b) for a in VARIANTS for b in bench_accuracy.KINDS}
    assert all(row["passed"] for row in rows), bench_accuracy.rows_text(rows)


@pytest.mark.parametrize(("capability", "wanted"), [(86, {"16-bit", "int8-fp16"}), (89, set(VARIANTS))])
def test_a_card_is_asked_for_what_it_has(monkeypatch, capability, wanted):
    """On an RTX 30 the kernels in fp8 have no settings: the table would end there."""
    monkeypatch.setattr(bench_accuracy, "runs_kernels", lambda device: True)
    monkeypatch.setattr(bench_accuracy, "capability_of", lambda device: capability)
    assert {row["variant"] for row in bench_accuracy.run(tokens=10)} == wanted


def test_the_command_fails_beyond_a_limit(monkeypatch):
    monkeypatch.setattr(bench_accuracy, "TOKENS", 100)
    monkeypatch.setattr(bench_accuracy, "LIMITS", {False: (1.0, 0.0), True: (1.0, 0.0)})
    monkeypatch.setattr(bench_accuracy.run, "__defaults__", (100, "cpu", ("int8-fp16",)))
    done = CliRunner().invoke(app, ["bench", "accuracy", "--json"])
    assert done.exit_code != 0
    assert len(json.loads(done.stdout)) == 3
    assert "beyond their limits: int8-fp16 on normal" in str(done.exception)
