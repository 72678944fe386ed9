"""The commands doing their work, through `main`, on the tiny recorded model."""

from __future__ import annotations

import json
import os
import pty
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from hvlite import errors
from hvlite.cli import main
from hvlite.lite.output.video_read import read_settings, read_video
from hvlite.lite.state.latents_file import read_latents

MODEL = Path(__file__).parent / "data" / "golden" / "ckpts_official"
HVLITE = [sys.executable, "-c", "import sys; from hvlite.cli import main; sys.exit(main())"]
SEEDED = ["--seed", "7"]


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "rope.json").write_text('{"rope_dim_list": [8, 12, 12]}')
    signals = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = [signal.getsignal(number) for number in signals]  # whoever runs the tests may have SIGHUP ignored
    yield
    assert [signal.getsignal(number) for number in signals] == before


def request(*extra: str, steps: int = 2) -> list[str]:
    model = ["--model", str(MODEL), "--model-config", "rope.json"]
    return [*model, "--video-size", "32", "48", "--frames", "5", "--steps", str(steps), *extra]


def generate(*extra: str, steps: int = 2) -> list[str]:
    return ["generate", "a red circle", *request(*extra, steps=steps)]


def json_lines(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def dry_run(capsys: pytest.CaptureFixture[str], *arguments: str) -> list[dict[str, Any]]:
    before = sorted(Path().rglob("*"))
    assert main(["generate", "--dry-run", "--json", *arguments]) == 0
    assert sorted(Path().rglob("*")) == before
    return json_lines(capsys.readouterr().out)


def test_generate_inspect_rerun(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(generate("--output", "a.mp4")) == 0
    printed = capsys.readouterr()
    assert printed.out == "a.mp4\n"
    seed = read_settings(Path("a.mp4"))["seed"]
    assert f"seed {seed}" in printed.err
    assert not Path("a.mp4.hvlite").exists()

    assert main(["inspect", "a.mp4", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["kind"] == "video"
    assert (found["height"], found["width"], found["frames"], found["fps"]) == (32, 48, 5, 24)
    assert found["settings"]["prompt"] == "a red circle"

    rerun = ["rerun", "a.mp4", "--model", str(MODEL), "--model-config", "rope.json"]
    assert main(rerun) == 0
    assert capsys.readouterr().out == "a-rerun.mp4\n"
    assert torch.equal(read_video(Path("a.mp4"))[0], read_video(Path("a-rerun.mp4"))[0])
    assert read_settings(Path("a.mp4")) == read_settings(Path("a-rerun.mp4"))

    assert main(rerun) == 2  # it is there now
    assert "--force" in capsys.readouterr().err


def test_a_finished_video_is_left_alone(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(generate("--output", "a.mp4", *SEEDED)) == 0
    before = Path("a.mp4").stat()
    capsys.readouterr()
    for again in (SEEDED, []):  # without a seed it is that of the video
        assert main(generate("--output", "a.mp4", "--resume", *again)) == 0
        assert "finished already" in capsys.readouterr().err
    assert main(generate("--output", "a.mp4", "--resume", "--seed", "8")) == 2
    assert "seed: 7 before, 8 now" in capsys.readouterr().err
    after = Path("a.mp4").stat()
    assert (before.st_mtime_ns, before.st_ino) == (after.st_mtime_ns, after.st_ino)
    assert main(generate("--output", "a.mp4", "--force", "--seed", "8")) == 0
    assert read_settings(Path("a.mp4"))["seed"] == 8


def test_resume_without_a_checkpoint_starts_at_step_0(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(generate("--output", "a.mp4", "--resume")) == 0
    assert "starting at step 0" in capsys.readouterr().err


def test_json_tells_the_whole_run(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(generate("--output", "a.mp4", "--json", "--use-cpu-offload", *SEEDED)) == 0
    printed = capsys.readouterr()
    events = json_lines(printed.out)
    assert [event["stage"] for event in events if event["event"] == "stage_done"] == ["embed", "denoise", "decode"]
    steps = [event for event in events if event["event"] == "step_done" and event["stage"] == "denoise"]
    assert [(step["index"], step["total"]) for step in steps] == [(1, 2), (2, 2)]
    assert any("--use-cpu-offload" in event["text"] for event in events if event["event"] == "note")
    assert events[-1]["event"] == "finished"
    assert (events[-1]["output"], events[-1]["seed"]) == ("a.mp4", 7)

    assert main(generate("--output", "a.mp4", "--json")) == 2
    (error,) = json_lines(capsys.readouterr().out)
    assert error["event"] == "error"
    assert error["exit_code"] == 2
    assert "--force" in error["hint"]


def test_several_videos_into_a_folder(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(generate("--save-path", "new/folder", "--num-videos", "2", "--png", *SEEDED)) == 0
    outputs = [Path(line) for line in capsys.readouterr().out.splitlines()]
    assert outputs == [Path(f"new/folder/a-red-circle_seed{seed}") for seed in (7, 8)]
    assert [read_settings(output)["seed"] for output in outputs] == [7, 8]


def test_kept_latents_decode_to_the_same_video(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(generate("--output", "a.mkv", "--keep-latents", *SEEDED)) == 0
    latents = Path("a.mkv.hvlite/latents.safetensors")
    decode = ["decode", str(latents), "--model", str(MODEL)]
    capsys.readouterr()
    assert main(decode) == 2  # not the model it was: its rotary axes came from a file
    assert "another model" in capsys.readouterr().err
    decode += ["--model-config", "rope.json"]
    assert main([*decode, "--output", "b.mkv"]) == 0
    assert torch.equal(read_video(Path("a.mkv"))[0], read_video(Path("b.mkv"))[0])
    assert read_settings(Path("a.mkv")) == read_settings(Path("b.mkv"))
    decode[1] = str(latents.parent)  # the folder means the latents in it
    assert main([*decode, "--fps", "12"]) == 0  # beside the state folder, under the name of the video
    assert read_video(Path("a.mp4"))[1] == 12
    assert main([*decode, "--lossless"]) == 2
    assert "a.mkv exists" in capsys.readouterr().err
    assert latents.exists()


def test_ctrl_c_keeps_the_work_and_resume_ends_with_the_same_latents() -> None:
    assert main(generate("--output", "whole.mp4", "--keep-latents", *SEEDED, steps=4)) == 0
    command = [*HVLITE, *generate("--output", "a b.mp4", "--keep-latents", *SEEDED, steps=4), "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as run:
        assert run.stdout is not None
        assert run.stderr is not None
        for line in run.stdout:
            if json.loads(line)["event"] == "step_done":
                run.send_signal(signal.SIGINT)
                break
        rest, errors = run.communicate(timeout=60)
    assert run.returncode == 130
    assert "Traceback" not in errors
    assert "a b.mp4.hvlite" in errors
    assert json_lines(rest)[-1]["exit_code"] == 130
    assert not Path("a b.mp4").exists()

    resume = [word for word in errors.splitlines() if "go on with" in word][-1]
    assert resume.endswith("--resume")
    assert main(shlex.split(resume.partition("hvlite ")[2])) == 0
    latents = [read_latents(Path(f"{name}.mp4.hvlite/latents.safetensors"))[0] for name in ("whole", "a b")]
    assert torch.equal(*latents)


@pytest.mark.slow
def test_on_a_terminal_it_is_alive() -> None:
    controller, terminal = pty.openpty()
    command = [*HVLITE, *generate("--output", "a.mp4", *SEEDED)]
    environment = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "100"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=terminal, env=environment) as run:
        os.close(terminal)
        shown = b""
        while part := read_some(controller):
            shown += part
        assert run.stdout is not None
        assert run.stdout.read() == b"a.mp4\n"
    os.close(controller)
    assert run.returncode == 0
    text = shown.decode()
    assert "\x1b[" in text
    for words in ("denoising", " of 2", "MiB", "seed 7", "✓"):
        assert words in text


def read_some(descriptor: int) -> bytes:
    try:
        return os.read(descriptor, 65536)
    except OSError:  # the other end of a terminal that was closed
        return b""


@pytest.mark.slow
def test_a_reader_that_leaves_does_not_stop_the_run() -> None:
    command = [*HVLITE, *generate("--output", "a.mp4", "--json", *SEEDED)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as run:
        assert run.stdout is not None
        run.stdout.readline()
        run.stdout.close()
        assert run.stderr is not None
        errors = run.stderr.read()
    assert run.returncode == 0, errors
    assert b"Traceback" not in errors
    assert b"Broken" not in errors
    assert Path("a.mp4").exists()


def test_dry_run_of_an_official_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    official = (
        "--model HYVideo-T/2-cfgdistill --latent-channels 16 --precision bf16 --rope-theta 256 --vae 884-16c-hy "
        "--vae-precision fp16 --vae-tiling --text-encoder llm --text-encoder-precision fp16 --text-states-dim 4096 "
        "--text-len 256 --tokenizer llm --prompt-template dit-llm-encode --prompt-template-video dit-llm-encode-video "
        "--hidden-state-skip-layer 2 --text-encoder-2 clipL --text-encoder-precision-2 fp16 --text-states-dim-2 768 "
        "--tokenizer-2 clipL --text-len-2 77 --denoise-type flow --flow-shift 7.0 --flow-reverse --flow-solver euler "
        "--linear-schedule-end 25 --model-resolution 540p --load-key module --use-cpu-offload --batch-size 1 "
        "--infer-steps 50 --disable-autocast --save-path ./results --save-path-suffix x --name-suffix y --num-videos 1 "
        "--video-size 720 1280 --video-length 129 --seed-type auto --seed 5 --cfg-scale 1.0 --embedded-cfg-scale 6.0 "
        "--reproduce --ulysses-degree 1 --ring-degree=1"
    )
    prompt = "A cat walks on the grass, realistic style."
    plan = dry_run(capsys, "--model-base", str(MODEL), *official.split(), "--prompt", prompt, "--neg-prompt", "blur")[0]
    assert (plan["height"], plan["width"], plan["frames"], plan["steps"]) == (720, 1280, 129, 50)
    assert (plan["guidance_scale"], plan["flow_shift"], plan["flow_reverse"], plan["seed"]) == (6.0, 7.0, True, 5)
    assert plan["output"] == "results_x/a-cat-walks-on-the-grass-realistic-style_seed5_y.mp4"
    told = " ".join(plan["notes"])
    for flag in ("--use-cpu-offload", "--disable-autocast", "--reproduce", "--vae-precision", "negative prompt"):
        assert flag in told


@pytest.mark.parametrize(
    ("words", "size"),
    [
        ("--resolution 720p", (720, 1280)),
        ("--resolution 720p --aspect 9:16", (1280, 720)),
        ("--resolution 720p --aspect 4:3", (832, 1104)),
        ("--resolution 720p --aspect 3:4", (1104, 832)),
        ("--resolution 720p --aspect 1:1", (960, 960)),
        ("--resolution 540p", (544, 960)),
        ("--resolution 540p --aspect 9:16", (960, 544)),
        ("--resolution 540p --aspect 4:3", (624, 832)),
        ("--resolution 540p --aspect 3:4", (832, 624)),
        ("--resolution 540p --aspect 1:1", (720, 720)),
        ("", (720, 1280)),
        ("--aspect 9:16", (1280, 720)),
        ("--video-size 512", (512, 512)),
        ("--size 512 --steps 3", (512, 512)),
    ],
)
def test_sizes(capsys: pytest.CaptureFixture[str], words: str, size: tuple[int, int]) -> None:
    (plan,) = dry_run(capsys, "a cat", "--model", str(MODEL), *words.split())
    assert (plan["height"], plan["width"]) == size


@pytest.mark.parametrize(
    ("arguments", "prompt"),
    [
        (["--", "-x marks the spot"], "-x marks the spot"),
        (["--", "--batch-size"], "--batch-size"),
        (["--", "--debug"], "--debug"),
        (["--prompt=-x marks"], "-x marks"),
        (["--prompt", "--reproduce"], "--reproduce"),
        (["--prompt-file", "prompt.txt"], "Käfer {0} 猫"),
        (["  a\ncat  "], "a\ncat"),
        (["😀 مرحبا"], "😀 مرحبا"),
    ],
)
def test_prompts(capsys: pytest.CaptureFixture[str], arguments: list[str], prompt: str) -> None:
    Path("prompt.txt").write_text("\ufeff Käfer {0} 猫\n", encoding="utf-8")
    (plan,) = dry_run(capsys, "--model", str(MODEL), *arguments)
    assert plan["prompt"] == prompt
    assert len(plan["output"].encode()) < 200


def test_several_videos_count_up(capsys: pytest.CaptureFixture[str]) -> None:
    Path("a-cat_seed5.mp4").touch()
    plans = dry_run(capsys, "a cat", "--model", str(MODEL), "--num-videos", "3", "--seed", "5")
    assert [plan["seed"] for plan in plans] == [5, 6, 7]
    assert [plan["output"] for plan in plans] == ["a-cat_seed5_2.mp4", "a-cat_seed6.mp4", "a-cat_seed7.mp4"]
    plans = dry_run(capsys, "a cat", "--model", str(MODEL), "--num-videos", "2", "--output", "cat.mp4")
    assert [plan["output"] for plan in plans] == ["cat-1.mp4", "cat-2.mp4"]
    assert plans[0]["seed"] + 1 == plans[1]["seed"]


def test_inspect_a_model(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(MODEL), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    parts = {part["part"]: part for part in found["parts"]}
    assert list(parts) == ["transformer", "vae", "text_encoder", "text_encoder_2"]
    assert parts["transformer"]["dtypes"] == {"BF16": 120}
    assert parts["transformer"]["config"]["rope_dim_list"] is None
    assert {"name": "img_in.proj.weight", "dtype": "BF16", "shape": [64, 16, 1, 2, 2]} in parts["transformer"]["keys"]
    assert main(["inspect", str(MODEL)]) == 0
    text = capsys.readouterr().out
    assert "transformer: 120 tensors" in text
    assert "img_in" not in text
    assert len(text.splitlines()) < 100
    assert main(["inspect", str(MODEL), "--tensors"]) == 0
    assert "  img_in.proj.weight BF16 64x16x1x2x2" in capsys.readouterr().out


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    import hvlite

    assert main(["--version"]) == main(["version"]) == 0
    first, second = capsys.readouterr().out.splitlines()
    assert first == second
    assert first.startswith(f"hvlite {hvlite.__version__} ")
    assert "torch" in first


@pytest.mark.parametrize("arguments", [["--help"], ["generate", "--help"], ["--version"]])
def test_help_is_quick_and_imports_no_torch(arguments: list[str]) -> None:
    code = (
        "import sys, time\nbegan = time.perf_counter()\nfrom hvlite.cli import main\n"
        f"code = main({arguments!r})\nseconds = time.perf_counter() - began\n"
        "heavy = {'torch', 'transformers', 'av', 'numpy', 'matplotlib', 'PIL'} & set(sys.modules)\n"
        "print(code, sorted(heavy), seconds, file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    code_, heavy, seconds = done.stderr.split()
    assert (code_, heavy) == ("0", "[]")
    assert float(seconds) < 1.5  # 0.2 s where nothing else runs
    assert len(done.stdout) > 20


def test_help_shows_every_option_and_the_official_flags(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    assert main(["generate", "--help"]) == 0
    text = capsys.readouterr().out
    for option in (
        "--video-size",
        "--infer-steps",
        "--embedded-cfg-scale",
        "--resume",
        "--ulysses-degree",
        "--load-key",
    ):
        assert option in text
    assert main([]) == 0
    assert "generate" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("hvlite do", ["doctor"]),
        ("hvlite generate --no-wa", ["--no-wait"]),
        ("hvlite generate --tier r", ["resident"]),
        ("hvlite plan --model huny", ["hunyuan-video-fp8", "hunyuan-video-int8", "hunyuan-video-bf16"]),
        ("hvlite plan --gpu H", ["H100 PCIe", "H100", "H200"]),
        ("hvlite quantize --vae b", ["bf16"]),
    ],
)
def test_the_shell_completes(words: str, expected: list[str]) -> None:
    asked = {"_HVLITE_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(len(words.split()) - 1)}
    done = subprocess.run(HVLITE, capture_output=True, text=True, env={**os.environ, **asked}, timeout=60, check=False)
    assert done.stdout.split("\n")[:-1] == expected, done.stderr


def test_help_names_the_exit_codes(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "250")
    assert main(["--help"]) == 0
    text = capsys.readouterr().out
    kinds = [each for each in vars(errors).values() if isinstance(each, type) and issubclass(each, errors.HvliteError)]
    for code in {0, *(kind.exit_code for kind in kinds)}:
        assert re.search(rf"(?:codes:|,) {code} \w", text), code
