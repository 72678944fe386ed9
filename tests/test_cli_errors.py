"""Whatever happens, a person reads one line and a hint, and a script reads the exit code."""

from __future__ import annotations

import errno
import io
import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any, NoReturn

import pytest
import torch

from hvlite import errors
from hvlite.cli import main
from hvlite.lite.video import write_video

MODEL = Path(__file__).parent / "data" / "golden" / "ckpts_official"
COMMAND = [
    "generate",
    "a cat",
    "--model",
    str(MODEL),
    "--video-size",
    "32",
    "48",
    "--frames",
    "5",
    "--output",
    "a b.mp4",
]


def failing_with(error: BaseException) -> Any:
    def run_generate(*_: object) -> NoReturn:
        raise error

    return run_generate


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Any:
    """run(error, *options) -> (exit code, stderr lines): the command whose work ends in `error`."""
    monkeypatch.chdir(tmp_path)

    def run_it(error: BaseException, *options: str) -> tuple[int, list[str]]:
        monkeypatch.setattr("hvlite.lite.job.run_generate", failing_with(error))
        code = main([*COMMAND, *options])
        return code, capsys.readouterr().err.splitlines()

    return run_it


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (errors.ConfigError("bad", hint="do this"), 2, "bad"),
        (errors.CheckpointError("broken"), 3, "broken"),
        (errors.DiskError("full"), 4, "full"),
        (OSError(errno.ENOSPC, "No space left on device", "a.mp4"), 4, "a.mp4: No space left"),
        (OSError(errno.EIO, "Input/output error"), 4, "Input/output"),
        (errors.UnsupportedDeviceError("no bf16"), 5, "no bf16"),
        (errors.MissingPartError("not installed"), 5, "not installed"),
        (errors.MemoryLimitError("too much"), 6, "too much"),
        (MemoryError(), 6, "no memory left"),
        (ZeroDivisionError("division by zero"), 70, "a bug in hvlite: ZeroDivisionError: division by zero"),
        (OSError(errno.ENOENT, "No such file"), 70, "a bug in hvlite"),
    ],
)
def test_each_error_has_its_code(run: Any, error: BaseException, code: int, words: str) -> None:
    got, lines = run(error)
    assert got == code
    said = [line for line in lines if line.startswith("error: ")]
    assert len(said) == 1
    assert words in said[0]
    assert any(line.startswith("hint: ") for line in lines)
    assert not any("Traceback" in line for line in lines)


def test_debug_shows_where(run: Any) -> None:
    code, lines = run(ZeroDivisionError("division by zero"), "--debug")
    assert code == 70
    assert "Traceback (most recent call last):" in lines
    assert any(line.startswith("hint: please report it") for line in lines)


def test_the_second_ctrl_c_names_the_work_and_the_command(run: Any) -> None:
    code, lines = run(KeyboardInterrupt(), "--seed", "7")
    assert code == 130
    assert "a b.mp4.hvlite" in lines[-2]
    assert "hvlite generate '--prompt=a cat'" in lines[-1]
    assert "--seed 7" in lines[-1]
    assert "'--output=a b.mp4'" in lines[-1]
    assert lines[-1].endswith("--resume")


def test_ctrl_c_before_the_work(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("hvlite.lite.request.preflight.prepare", failing_with(KeyboardInterrupt()))
    assert main(COMMAND) == 130
    assert "stopped before the work began" in capsys.readouterr().err


def test_a_closed_stderr_hides_the_words_not_the_code(monkeypatch: pytest.MonkeyPatch) -> None:
    closed = io.StringIO()
    closed.close()
    monkeypatch.setattr(sys, "stderr", closed)
    assert main(["generate", ""]) == 2


def test_a_closed_stdout_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as stdout:
        monkeypatch.setattr(sys, "stdout", stdout)
        assert main(["--version"]) == 0


def test_a_terminal_that_lacks_the_letters(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    written = io.BytesIO()
    with io.TextIOWrapper(written, encoding="latin-1") as stdout:
        monkeypatch.setattr(sys, "stdout", stdout)
        assert main(["generate", "a 猫", "--model", str(MODEL), "--dry-run"]) == 0
        assert b"prompt: a \\u732b" in written.getvalue()


def test_a_tilde_is_the_home_folder_also_behind_an_equals_sign(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "home" / "videos").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    request = ["generate", "x", "--video-size", "32", "48", "--dry-run"]
    assert main([*request, "--output=~/videos/x.mp4"]) == 0
    assert f"output: {tmp_path}/home/videos/x.mp4\n" in capsys.readouterr().out
    assert main([*request, "--save-path=~/videos"]) == 0
    assert f"output: {tmp_path}/home/videos/x_seed" in capsys.readouterr().out
    assert main([*request, "--prompt-file=~/none.txt"]) == 2
    assert main(["generate", "~/x", "--dry-run"]) == 0
    assert "prompt: ~/x\n" in capsys.readouterr().out
    assert main([*request, "--output=~nobody-has-this-name/x.mp4"]) == 2
    assert "~nobody-has-this-name is nobody's home folder" in capsys.readouterr().err


def test_a_file_cannot_write_to_the_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    video = tmp_path / "a.mp4"
    write_video(video, [torch.zeros(1, 32, 32, 3, dtype=torch.uint8)], fps=8, settings={"prompt": "\x1b[31mred\x07"})
    assert main(["inspect", str(video)]) == 0
    assert "prompt: \\x1b[31mred\\x07" in capsys.readouterr().out
    assert main(["inspect", str(video), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["settings"]["prompt"] == "\x1b[31mred\x07"
    assert main(["inspect", f"{tmp_path}/\x1b[31m.mp4", "--debug"]) == 2
    assert "\x1b" not in capsys.readouterr().err


INTERRUPTED_IMPORT = """
import signal, sys

class CtrlC:
    def find_spec(self, name, *_):
        if name == MODULE:
            sys.meta_path.remove(self)
            signal.raise_signal(signal.SIGINT)

sys.meta_path.insert(0, CtrlC())
from hvlite.__main__ import main
sys.exit(main())
"""


@pytest.mark.parametrize("module", ["typer", "hvlite.commands.quantize", "hvlite.lite.request.preflight"])
def test_ctrl_c_while_it_loads(module: str) -> None:
    code = INTERRUPTED_IMPORT.replace("MODULE", repr(module))
    command = [sys.executable, "-c", code, "generate", "x", "--device=tpu"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (130, "stopped before the work began\n")


def test_the_program_goes_through_that_door() -> None:
    project = tomllib.loads((Path(__file__).parent.parent / "pyproject.toml").read_text("utf-8"))
    assert project["project"]["scripts"] == {"hvlite": "hvlite.__main__:main"}


@pytest.mark.parametrize("command", ["generate x --dry-run", "plan --device cpu"])
def test_model_demo_is_the_model_that_ships(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "demo").mkdir()
    assert main([*command.split(), "--model", "demo"]) == 0
    assert "hvlite-demo" in capsys.readouterr().out
    assert main([*command.split(), "--model", "./demo"]) != 0
    assert main([*command.split(), "--model", "~nobody-has-this-name"]) == 2


def test_what_has_no_effect_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--device", "cpu", "--precision", "bf16", "--neg-prompt", "a dog"]
    assert main(["generate", "x", "--dry-run", *options]) == 0
    assert capsys.readouterr().err.splitlines() == [
        "the negative prompt has no effect while --cfg-scale is 1",
        "--precision bf16: a CPU computes in fp32",
    ]
    assert main(["generate", "x", "--dry-run", "--device", "cpu", "--precision", "fp32", "--cfg-scale", "2"]) == 0
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("command", ["", "generate", "rerun", "decode", "inspect", "doctor", "quantize", "verify"])
def test_a_switch_has_no_type_in_the_help(capsys: pytest.CaptureFixture[str], command: str) -> None:
    assert main([*command.split(), "--help"]) == 0
    assert "<bool>" not in capsys.readouterr().out
