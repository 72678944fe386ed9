"""`hvlite quantize` and `hvlite verify` as they are typed: output, exit codes, going on after Ctrl-C."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from hvlite.cli import main
from hvlite.lite.card import demo_root


def test_quantize_then_verify_then_inspect(golden: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    source, output = str(golden / "ckpts_official"), str(tmp_path / "out")
    assert main(["quantize", source, output]) == 0
    out, err = capfd.readouterr()
    assert "fp8" in out
    assert "largest relative errors" in out
    assert "is finished" in err
    assert main(["quantize", source, output]) == 0
    assert "was finished already" in capfd.readouterr().err
    assert main(["verify", output, "--source", source]) == 0
    assert "458 weights are right" in capfd.readouterr().out
    assert main(["inspect", output, "--json"]) == 0
    found = json.loads(capfd.readouterr().out)
    assert found["layout"] == "hvlite"
    assert found["parts"][0]["dtypes"] == {"BF16": 100, "F8_E4M3": 20}


def test_json_lines(golden: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    arguments = [str(golden / "ckpts_official"), str(tmp_path / "out"), "--part", "transformer", "--json"]
    assert main(["quantize", *arguments, "--transformer", "int8"]) == 0
    lines = [json.loads(line) for line in capfd.readouterr().out.splitlines()]
    assert lines[-1]["event"] == "finished"
    assert lines[-1]["totals"]["transformer"]["schemes"]["int8"]["weights"] == 20
    assert {line["event"] for line in lines[:-1]} == {"progress"}
    assert lines[-2]["done_bytes"] == lines[-2]["total_bytes"]
    assert main(["verify", str(tmp_path / "out"), "--json"]) == 0
    assert json.loads(capfd.readouterr().out)["ok"] is True


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["{golden}/ckpts_official", "{tmp}/out", "--transformer", "fp4"], 2, "expected one of fp8"),
        (["{golden}/ckpts_official", "{tmp}/out", "--part", "audio"], 2, "no part 'audio'"),
        (["{golden}/ckpts_official", "{golden}/ckpts_official"], 2, "in each other"),
        (["{golden}/ckpts_official", "{tmp}/out", "--recipe", "{tmp}/none.toml"], 2, "does not exist"),
        (["{golden}/ckpts_official", "{tmp}/out", "--lora", "{tmp}/x.safetensors"], 2, "does not exist"),
        (["{golden}/ckpts_official", "{tmp}/out", "--lora", "x.safetensors:many"], 2, "no LoRA scale"),
        (["{golden}/ckpts_official", "{tmp}/out", "--threads", "0"], 2, "--threads"),
        (["{tmp}/nothing", "{tmp}/out"], 2, "does not exist"),
        (["{golden}/text", "{tmp}/out"], 3, "text"),
        (["{golden}/ckpts_official"], 2, "OUTPUT"),
    ],
)
def test_refusals(
    golden: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], arguments: list[str], code: int, message: str
) -> None:
    assert main(["quantize", *(text.format(golden=golden, tmp=tmp_path) for text in arguments)]) == code
    err = capfd.readouterr().err
    assert message in err
    assert "Traceback" not in err
    assert not (tmp_path / "out" / "hvlite.json").exists()


def test_verify_says_what_is_wrong_and_leaves_with_3(
    golden: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "out"
    assert main(["quantize", str(golden / "ckpts_official"), str(output), "--part", "vae"]) == 0
    path = output / "vae" / "diffusion_pytorch_model.safetensors"
    data = bytearray(path.read_bytes())
    data[-5] ^= 16
    path.write_bytes(data)
    capfd.readouterr()
    assert main(["verify", str(output)]) == 3
    out, err = capfd.readouterr()
    assert out.startswith("vae/diffusion_pytorch_model.safetensors has other bytes")
    assert "1 problem" in err


@pytest.mark.slow
def test_ctrl_c_keeps_the_work_and_the_same_command_goes_on(golden: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "hvlite.cli", "quantize", str(golden / "ckpts_official"), str(tmp_path / "out")]
    run = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=tmp_path)
    assert run.stderr is not None
    run.stderr.readline()  # the first file is done
    run.send_signal(signal.SIGINT)
    err = run.communicate(timeout=60)[1]
    assert run.returncode in (0, 130)
    if run.returncode == 130:
        assert "finished files are kept" in err
        assert "the same command goes on" in err
        assert not (tmp_path / "out" / "hvlite.json").exists()
    again = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path)
    assert ("going on" in again.stderr) or ("was finished already" in again.stderr)
    assert main(["verify", str(tmp_path / "out")]) == 0


@pytest.mark.skipif(not demo_root().is_dir(), reason="the model that ships is not there")
def test_the_word_demo_is_the_model_that_ships(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["quantize", "demo", str(tmp_path / "out")]) == 0
    assert main(["verify", str(tmp_path / "out"), "--source", "demo"]) == 0
    assert (tmp_path / "out" / "hvlite_card.json").is_file()

    block = tmp_path / "out" / "transformer" / "double_blocks.00.safetensors"
    data = bytearray(block.read_bytes())
    data[8 + int.from_bytes(data[:8], "little") + 3] = 0xFF  # the sign of the first scale
    block.write_bytes(data)
    prompts = tmp_path / "p.txt"
    prompts.write_text("a cat")
    small = ["--steps", "1", "--frames", "1", "--video-size", "64", "64", "--model", str(tmp_path / "out")]
    for arguments in (
        ["generate", "a cat", "--output", str(tmp_path / "a.mp4")],
        ["batch", str(prompts), "--save-path", str(tmp_path / "videos")],
    ):
        capfd.readouterr()
        assert main([*arguments, *small]) == (3 if arguments[0] == "generate" else 1)
        err = capfd.readouterr().err
        assert "double_blocks.00.safetensors" in err
        assert f"hvlite verify {tmp_path / 'out'} names every damaged file" in err


def test_a_folder_called_demo_is_named_with_a_dot(
    golden: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(golden / "ckpts_official", tmp_path / "demo")
    monkeypatch.chdir(tmp_path)
    assert main(["quantize", f".{os.sep}demo", "out", "--part", "vae"]) == 0
    assert main(["verify", "out", "--source", str(golden / "ckpts_official")]) == 0
    assert main(["verify", "out", "--source", "demo"]) == (3 if demo_root().is_dir() else 2)


def test_a_conversion_that_was_killed_is_called_unfinished(
    golden: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    killed = subprocess.run([sys.executable, "-c", KILLED, str(golden / "ckpts_official"), str(out)], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert len(list((out / "transformer").glob("*.safetensors"))) >= 3
    for command in ("generate x --model", "inspect", "verify", "plan --model"):
        assert main([*command.split(), str(out)]) == 3
        err = capfd.readouterr().err
        assert f"{out} is an unfinished conversion" in err
        assert f"hint: the `hvlite quantize ... {out}` that began it goes on" in err


KILLED = """
import os, signal, sys
from pathlib import Path
from hvlite.quantize.convert import QuantizeOptions, run_quantize

def die(progress):
    if progress.files_done == 5:
        os.kill(os.getpid(), signal.SIGKILL)

source, output = map(Path, sys.argv[1:])
run_quantize(QuantizeOptions(source=source, output=output, parts=("transformer",), workers=1), die)
"""


@pytest.mark.parametrize("command", ["inspect", "verify"])
def test_a_converted_folder_that_lost_its_manifest(
    golden: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], command: str
) -> None:
    out = tmp_path / "out"
    assert main(["quantize", str(golden / "ckpts_official"), str(out), "--part", "transformer"]) == 0
    (out / "hvlite.json").unlink()
    assert main([command, str(out)]) == 3
    assert "a converted model without its hvlite.json" in capfd.readouterr().err
