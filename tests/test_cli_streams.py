"""Closed, full and abandoned streams: the work is done, the exit code is right, nobody sees a traceback."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

HVLITE = f"{sys.executable} -m hvlite.cli"
MODEL = Path(__file__).parent / "data" / "golden" / "ckpts_official"
QUANTIZE = f"quantize {MODEL} out --part vae"


def shell(command: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """The command in bash; $H is hvlite."""
    environment = {**os.environ, "H": HVLITE}
    script = f"set -o pipefail; {command}"
    return subprocess.run(
        ["bash", "-c", script], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize("arguments", [f"inspect {MODEL}", QUANTIZE])
def test_a_stdout_closed_before_the_start_costs_nothing(tmp_path: Path, arguments: str) -> None:
    done = shell(f"$H {arguments} >&-", tmp_path)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert (tmp_path / "out" / "hvlite.json").is_file() == arguments.startswith("quantize")


@pytest.mark.parametrize("closed", ["<&- 2>&-", "2>/dev/full"])
def test_a_closed_or_full_stderr_costs_nothing(tmp_path: Path, closed: str) -> None:
    done = shell(f"$H {QUANTIZE} {closed}", tmp_path)
    assert done.returncode == 0
    assert done.stdout


@pytest.mark.parametrize("arguments", ["--help", f"{QUANTIZE} --json", "plan"])
def test_a_full_standard_output_is_named(tmp_path: Path, arguments: str) -> None:
    done = shell(f"$H {arguments} >/dev/full", tmp_path)
    assert done.returncode == 4, done.stderr
    assert "error: cannot write to standard output: No space left on device\n" in done.stderr
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr


@pytest.mark.parametrize("arguments", ["--help", f"inspect {MODEL}"])
def test_a_reader_that_goes_away_is_no_error(tmp_path: Path, arguments: str) -> None:
    done = shell(f"$H {arguments} | true; echo ${{PIPESTATUS[0]}}", tmp_path)
    assert done.stdout == "0\n"
    assert done.stderr == ""


@pytest.mark.slow
@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&- >&- 2>&-"])
def test_a_video_is_made_without_streams(tmp_path: Path, closed: str) -> None:
    done = shell(f"$H generate x --size 32 48 --frames 1 --steps 1 --output a.mp4 {closed}", tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "a.mp4").is_file()
