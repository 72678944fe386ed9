"""`hvlite doctor` as a person runs it, on a machine without a card and with a Triton that cannot be imported."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from hvlite.cli import main
from hvlite.lite.doctor import examination
from hvlite.lite.doctor.finding import Finding, Patient

WELL = Finding("hvlite", "ok", "well")


@pytest.mark.slow
@pytest.mark.timeout(500)
@pytest.mark.skipif(torch.cuda.is_available(), reason="this is about a machine without a card")
def test_no_card_and_a_broken_triton(tmp_path: Path) -> None:
    (tmp_path / "triton").mkdir()
    (tmp_path / "triton" / "__init__.py").write_text("raise ImportError('libtriton.so: undefined symbol: foo')")
    command = [sys.executable, "-m", "hvlite.cli", "doctor", "--json", "--save-path", str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": str(tmp_path), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=450, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads(done.stdout)
    found = {finding["name"]: finding for finding in report["findings"]}
    assert report["works"] is True
    assert found["gpu"]["state"] == found["triton"]["state"] == "warning"
    assert "the CPU works instead" in found["gpu"]["what"]
    assert "undefined symbol: foo" in found["triton"]["what"]
    assert found["triton"]["fix"].startswith("pip install --force-reinstall")
    assert found["trial"]["state"] == found["plan"]["state"] == found["video encoders"]["state"] == "ok"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["triton"]
    assert not done.stderr


def test_stopped_half_way_it_says_where(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def stopped(patient: Patient) -> list[Finding]:
        raise KeyboardInterrupt

    monkeypatch.setattr(examination, "CHECKS", (("hvlite", lambda patient: [WELL]), ("disk rate", stopped)))
    assert main(["doctor"]) == 130
    out, err = capsys.readouterr()
    assert out == "ok    hvlite: well\n"
    assert err.splitlines()[0] == "stopped while examining disk rate; 1 finding so far"


def test_a_wrong_device_is_an_error_before_anything_is_examined(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--device", "tpu"]) == 2
    out, err = capsys.readouterr()
    assert not out
    assert err.startswith("error: device 'tpu'")
