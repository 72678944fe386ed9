"""Bad requests: each gets its exit code, a line that says what is wrong, and leaves the disk and the weights alone.

They run through `main` in one process of its own, so that what it imports and opens can be watched.
"""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch

from hvlite.cli import USUAL_HINTS
from hvlite.lite.output.encoding import VideoEncoding
from hvlite.lite.video import write_video

GOLDEN = Path(__file__).parent / "data" / "golden"
MODEL = str(GOLDEN / "ckpts_official")
SMALL = ["--video-size", "32", "48", "--frames", "5", "--steps", "2"]
OK = ["a cat", "--model", MODEL, *SMALL]
ENOUGH_FOR_NO_DISK = ["--video-size", "8192", "8192", "--frames", "4097", "--num-videos", "1000", "--lossless"]

RUNNER = r"""
import contextlib, io, json, os, sys, time
WATCHED = {"weights": [], "on": False}
def hook(event, args):
    if WATCHED["on"] and event == "open" and str(args[0]).endswith((".pt", ".safetensors", ".bin")):
        WATCHED["weights"].append(str(args[0]))
sys.addaudithook(hook)
from hvlite.cli import main

def tree(folder):
    return sorted((os.path.join(top, name), os.lstat(os.path.join(top, name)).st_mtime_ns)
                  for top, folders, files in os.walk(folder) for name in folders + files)

os.chdir(sys.argv[1])
outcomes = []
for arguments in json.load(sys.stdin):
    out, err, before = io.StringIO(), io.StringIO(), tree(".")
    WATCHED.update(weights=[], on=True)
    began = time.monotonic()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(arguments)
    WATCHED["on"] = False
    outcomes.append({"code": code, "out": out.getvalue(), "err": err.getvalue(), "unchanged": tree(".") == before,
                     "weights": WATCHED["weights"], "torch": "torch" in sys.modules,
                     "seconds": time.monotonic() - began})
json.dump(outcomes, sys.stdout)
"""


@dataclass(frozen=True)
class Bad:
    """A command line, the exit code it must get, and words its error must have."""

    name: str
    arguments: list[str]
    code: int
    words: list[str] = field(default_factory=list)


def generate(name: str, extra: list[str], *words: str, code: int = 2) -> Bad:
    return Bad(name, ["generate", *OK, *extra], code, list(words))


PROMPTS = [
    Bad("no prompt", ["generate"], 2, ["no prompt"]),
    Bad("empty prompt", ["generate", ""], 2, ["empty"]),
    Bad("blank prompt", ["generate", " \n\t"], 2, ["empty"]),
    Bad("empty --prompt", ["generate", "--prompt="], 2, ["empty"]),
    Bad("NUL in the prompt", ["generate", "a\0b"], 2, ["NUL"]),
    Bad("broken bytes in the prompt", ["generate", "caf\udce9"], 2, ["position 3"]),
    Bad("endless prompt", ["generate", "cat " * 6000], 2, ["20000"]),
    Bad("two prompts", ["generate", "a cat", "--prompt", "a dog"], 2, ["twice"]),
    Bad("prompt and file", ["generate", "a cat", "--prompt-file", "prompt.txt"], 2, ["twice"]),
    Bad("prompt file not there", ["generate", "--prompt-file", "nowhere.txt"], 2, ["nowhere.txt"]),
    Bad("prompt file a folder", ["generate", "--prompt-file", "folder"], 2, ["folder"]),
    Bad("prompt file empty", ["generate", "--prompt-file", "empty"], 2, ["empty"]),
    Bad("prompt file in latin-1", ["generate", "--prompt-file", "latin1.txt"], 2, ["not UTF-8"]),
    Bad("prompt file with NUL name", ["generate", "--prompt-file", "a\0b"], 2, ["--prompt-file"]),
    Bad("two words without quotes", ["generate", "a", "cat"], 2, ["cat"]),
    generate("NUL in the negative prompt", ["--neg-prompt", "x\0", "--cfg-scale", "2"], "negative prompt"),
]
NUMBERS = [
    generate("height not of 16", ["--video-size", "30", "48"], "height 30", "16 or 32"),
    generate("width not of 16", ["--video-size", "32", "1000"], "width 1000", "992 or 1008"),
    generate("size zero", ["--video-size", "0", "0"], "height 0", "16"),
    generate("size negative", ["--video-size", "-32", "48"], "height -32"),
    generate("size huge", ["--video-size", str(2**31), "48"], "height 2147483648", "8192"),
    generate("size beyond 64 bits", ["--video-size", str(10**30), "48"], "height"),
    generate("size half a pair", ["--size", "80x"], "--size 720 1280"),
    generate("size alone", ["--size"], "2 arguments", "--size 720 1280"),
    generate("size no number", ["--video-size", "big", "48"], "--video-size"),
    generate("size and resolution", ["--resolution", "720p"], "exclude"),
    Bad("unknown resolution", ["generate", "a cat", "--model", MODEL, "--resolution", "4k"], 2, ["4k", "720p"]),
    Bad("unknown aspect", ["generate", "a cat", "--model", MODEL, "--aspect", "16x9"], 2, ["16x9", "16:9"]),
    generate("frames 4", ["--frames", "4"], "frames 4", "1 or 5"),
    generate("frames 128", ["--video-length", "128"], "frames 128", "125 or 129"),
    generate("frames 0", ["--frames", "0"], "frames 0", "nearest: 1"),
    generate("frames negative", ["--frames", "-7"], "frames -7"),
    generate("frames too many", ["--frames", "100001"], "frames 100001", "4097"),
    generate("frames no number", ["--frames", "many"], "--frames"),
    generate("steps 0", ["--steps", "0"], "steps 0"),
    generate("steps negative", ["--infer-steps", "-5"], "steps -5"),
    generate("steps too many", ["--steps", "100000"], "steps 100000"),
    generate("guidance nan", ["--guidance", "nan"], "guidance_scale", "finite"),
    generate("guidance inf", ["--embedded-cfg-scale", "inf"], "guidance_scale", "finite"),
    generate("guidance overflows", ["--guidance", "1e999"], "guidance_scale", "finite"),
    generate("guidance negative", ["--guidance", "-1"], "guidance_scale -1"),
    generate("cfg below 1", ["--cfg-scale", "0.5"], "cfg_scale 0.5"),
    generate("shift 0", ["--flow-shift", "0"], "flow_shift 0"),
    generate("shift nan", ["--flow-shift", "nan"], "flow_shift"),
    generate("seed negative", ["--seed", "-1"], "seed -1"),
    generate("seed beyond 63 bits", ["--seed", str(2**63)], "seed"),
    generate("seeds run over", ["--seed", str(2**63 - 1), "--num-videos", "2"], "seed"),
    generate("no videos", ["--num-videos", "0"], "--num-videos 0"),
    generate("too many videos", ["--num-videos", "100000"], "--num-videos 100000"),
    generate("fps 0", ["--fps", "0"], "fps 0"),
    generate("fps a fraction", ["--fps", "23.976"], "--fps"),
    generate("crf 52", ["--crf", "52"], "crf 52"),
    generate("crf negative", ["--crf", "-1"], "crf -1"),
    generate("preview every 0", ["--preview-every", "0"], "preview_every 0"),
    generate("threads 0", ["--threads", "0"], "threads 0"),
    generate("unknown precision", ["--precision", "fp64"], "fp64", "bf16"),
    generate("unknown device", ["--device", "tpu"], "tpu", "cuda"),
]
OUTPUTS = [
    generate("output a folder", ["--output", "folder"], "folder"),
    generate("output a folder with suffix", ["--output", "folder.mp4"], "is a folder", "--save-path"),
    generate("output exists", ["--output", "foreign.mp4"], "foreign.mp4", "--force"),
    generate("finished video there", ["--output", "finished.mp4"], "exists already", "--force"),
    generate("finished video with other settings", ["--output", "finished.mp4", "--resume"], "prompt", "--force"),
    generate("finished video, rerun", ["--output", "finished.mp4", "--no-resume"], "exists already"),
    generate("finished frames there", ["--output", "frames", "--png"], "exists already", "--force"),
    generate("frames with other settings", ["--output", "frames", "--png", "--resume"], "prompt", "--force"),
    generate("output in no folder", ["--output", "nowhere/a.mp4"], "nowhere", "mkdir"),
    generate("output below a file", ["--output", "prompt.txt/a.mp4"], "prompt.txt"),
    generate("save path a file", ["--save-path", "prompt.txt"], "prompt.txt"),
    generate("save path below a file", ["--save-path", "prompt.txt/a/b"], "prompt.txt"),
    generate("output and save path", ["--output", "a.mp4", "--save-path", "b"], "exclude"),
    generate("name too long", ["--output", "x" * 240 + ".mp4"], "--output", "too long", "at most 223 bytes"),
    generate("name too long in bytes", ["--output", "猫" * 80 + ".mp4"], "too long"),
    generate("path too long", ["--save-path", "x" * 5000], "--save-path", "too long", "3500"),
    generate("NUL in the output", ["--output", "a\0.mp4"], "--output", "null"),
    generate("NUL in the save path", ["--save-path", "a\0"], "--save-path", "null"),
    generate("broken bytes in the output", ["--output", "a\udcff.mp4"], "UTF-8"),
    generate("unknown suffix", ["--output", "a.avi"], ".mp4"),
    generate("no suffix", ["--output", "video"], ".mp4"),
    generate("empty output", ["--output", ""], "--output names no file"),
    generate("lossless mp4", ["--output", "a.mp4", "--lossless"], ".mkv"),
    generate("frames into mp4", ["--output", "a.mp4", "--png"], "folder"),
    generate("frames into a foreign folder", ["--output", "folder", "--png"], "folder"),
    generate("frames over a file", ["--output", "prompt", "--png"], "prompt"),
    generate("lossless and frames", ["--lossless", "--png"], "exclude"),
    generate("crf and lossless", ["--lossless", "--crf", "20"], "--crf"),
    generate("crf and mkv", ["--output", "a.mkv", "--crf", "20"], "--crf"),
    generate("output a device", ["--output", "/dev/null"], "/dev/null"),
    generate("output a link to nothing", ["--output", "dangling.mp4"], "dangling.mp4"),
    generate("state folder is a file", ["--output", "blocked.mp4"], "blocked.mp4.hvlite"),
    generate("unfinished run there", ["--output", "stopped.mp4"], "1 of 2 steps", "--resume"),
    generate(
        "resume with other settings", ["--output", "stopped.mp4", "--resume", "--seed", "8"], "seed: 7 before, 8 now"
    ),
    generate("damaged checkpoint", ["--output", "damaged.mp4", "--resume"], "damaged.mp4.hvlite", code=3),
    generate("resume without output", ["--resume"], "--output"),
    generate("resume and force", ["--output", "a.mp4", "--resume", "--force"], "exclude"),
    generate("name suffix and output", ["--output", "a.mp4", "--name-suffix", "x"], "--name-suffix"),
    generate("path suffix alone", ["--save-path-suffix", "x"], "--save-path"),
    generate("disk too small", [*ENOUGH_FOR_NO_DISK], "MiB free", code=4),
]
MODELS = [
    Bad("model not there", ["generate", "a cat", "--model", "nowhere"], 2, ["nowhere"]),
    Bad("model with NUL", ["generate", "a cat", "--model", "a\0"], 2, ["--model", "NUL"]),
    Bad("model path too long", ["generate", "a cat", "--model", "x" * 5000], 2, ["--model"]),
    Bad("model an empty folder", ["generate", "a cat", "--model", "folder.mp4"], 3, ["folder.mp4"]),
    Bad("model a text file", ["generate", "a cat", "--model", "prompt.txt"], 3, ["prompt.txt"]),
    Bad("model one part alone", ["generate", "a cat", "--model", f"{MODEL}/text_encoder"], 3, ["transformer", "VAE"]),
    Bad("model without text encoders", ["generate", "a cat", "--model", "half"], 3, ["text_encoder"]),
    Bad("model with a broken card", ["generate", "a cat", "--model", "carded"], 3, ["hvlite_card.json"]),
    Bad("a quantized model", ["generate", "a cat", "--model", "quantized"], 3, ["quantized"]),
    generate("weights not there", ["--dit-weight", "nowhere.pt"], "nowhere.pt"),
    Bad("weights without a model", ["generate", "a cat", "--dit-weight", "prompt.txt"], 2, ["--model-base"]),
    generate("fp8 file not there", ["--use-fp8"], "_fp8.pt"),
    Bad("fp8 without a model", ["generate", "a cat", "--use-fp8"], 2, ["--model-base"]),
    generate("fp8 without scales", ["--use-fp8", "--dit-weight", "lone_fp8.pt"], "_map.pt", code=3),
    generate("unknown model resolution", ["--model-resolution", "4k"], "4k", "540p"),
    generate("model config not there", ["--model-config", "nowhere.json"], "nowhere.json"),
    generate("model config a list", ["--model-config", "list.json"], "object"),
    generate("model config no JSON", ["--model-config", "prompt.txt"], "prompt.txt is not valid JSON"),
]
OFFICIAL = [
    generate(f"official {name} {' '.join(value)}", [name, *value], name)
    for name, *value in (
        ["--latent-channels", "8"],
        ["--rope-theta", "10000"],
        ["--vae", "888-16c-hy"],
        ["--vae-precision", "int8"],
        ["--text-encoder", "clipL"],
        ["--text-len", "512"],
        ["--tokenizer", "other"],
        ["--prompt-template", "mine"],
        ["--prompt-template-video", "mine"],
        ["--hidden-state-skip-layer", "0"],
        ["--apply-final-norm"],
        ["--text-len-2", "128"],
        ["--denoise-type", "ddpm"],
        ["--flow-solver", "heun"],
        ["--use-linear-quadratic-schedule"],
        ["--load-key", "ema"],
        ["--batch-size", "2"],
        ["--seed-type", "file"],
        ["--ulysses-degree", "8"],
        ["--ring-degree", "2"],
        ["--i2v-mode"],
        ["--i2v-image-path", "cat.png"],
        ["--use-lora"],
        ["--flow-solver"],
    )
]
OTHERS = [
    Bad("unknown command", ["generat", "a cat"], 2, ["generat"]),
    Bad("unknown option", ["generate", "a cat", "--colour", "red"], 2, ["--colour"]),
    Bad("option without value", ["generate", "a cat", "--frames"], 2, ["--frames", "hvlite generate --help"]),
    Bad("unknown option of hvlite", ["--colour"], 2, ["--colour"]),
    Bad("rerun of nothing", ["rerun"], 2, ["VIDEO"]),
    Bad("rerun of a missing video", ["rerun", "nowhere.mp4"], 2, ["nowhere.mp4"]),
    Bad("rerun of a text", ["rerun", "prompt.txt"], 2, ["prompt.txt"]),
    Bad("rerun of a folder", ["rerun", "folder"], 2, ["folder"]),
    Bad("rerun with another model", ["rerun", "finished.mp4", "--model", MODEL], 2, ["another model"]),
    Bad("decode of nothing", ["decode"], 2, ["LATENTS"]),
    Bad("decode of missing latents", ["decode", "nowhere.safetensors"], 2, ["nowhere.safetensors"]),
    Bad("decode of a text", ["decode", "prompt.txt"], 2, ["prompt.txt"]),
    Bad("decode of a folder", ["decode", "."], 2, ["latents.safetensors", ".hvlite/"]),
    Bad("decode of a video", ["decode", "finished.mp4"], 2, ["finished.mp4", "latents.safetensors"]),
    Bad("inspect nothing", ["inspect"], 2, ["PATH"]),
    Bad("inspect what is missing", ["inspect", "nowhere"], 2, ["nowhere"]),
    Bad("inspect with NUL", ["inspect", "a\0"], 2, ["PATH", "null"]),
    Bad("inspect an empty folder", ["inspect", "folder.mp4"], 3, ["folder.mp4"]),
    Bad("inspect a broken video", ["inspect", "foreign.mp4"], 2, ["foreign.mp4"]),
]
PLANS = [
    Bad(f"plan {' '.join(words)}", ["plan", *words], 2, named)
    for words, *named in (
        (["--model", "nowhere"], "nowhere", "hunyuan-video-fp8"),
        (["--gpu", "RTX 9999"], "RTX 9999", "known: "),
        (["--gpu", ""], "--gpu"),
        (["--frames", "4", "--device", "cpu"], "frames 4"),
        (["--frames", "0", "--device", "cpu"], "frames 0"),
        (["--steps", "0", "--device", "cpu"], "steps 0"),
        (["--video-size", "30", "48", "--device", "cpu"], "height 30"),
        (["--video-size", "32", "48", "--resolution", "720p"], "--video-size"),
        (["--resolution", "4k", "--device", "cpu"], "4k"),
        (["--vram-limit", "12"], "--vram-limit 12", "12GiB"),
        (["--vram-limit", "-1GiB"], "--vram-limit"),
        (["--vram-limit", "0GiB"], "--vram-limit"),
        (["--ram-limit", "much", "--device", "cpu"], "--ram-limit much"),
        (["--ram-limit", "1e9GiB", "--device", "cpu"], "--ram-limit"),
        (["--device", "cpu", "--gpu", "H100"], "--device cpu"),
        (["--tier", "cloud", "--device", "cpu"], "cloud"),
        (["--device", "tpu", "--vram-limit", "8GiB"], "tpu"),
        (["extra"], "extra"),
    )
]
COMPARED = ["compare", "finished.mp4", "finished.mp4"]
LATE = [
    Bad("compare one", ["compare", "finished.mp4"], 2, ["B"]),
    Bad("compare with what is missing", ["compare", "nowhere.mp4", "gone.mp4"], 2, ["nowhere.mp4"]),
    Bad("compare with a device", ["compare", "finished.mp4", "/dev/null"], 2, ["/dev/null"]),
    Bad("compare with a folder", ["compare", "finished.mp4", "folder"], 2, ["folder"]),
    Bad("compare texts", ["compare", "prompt.txt", "prompt.txt"], 2, ["prompt.txt"]),
    Bad("inspect a text", ["inspect", "prompt.txt"], 3, ["prompt.txt"]),
    Bad("bench an unknown part", ["bench", "speed"], 2, ["speed"]),
    Bad("bench for no time", ["bench", "--minutes", "0"], 2, ["--minutes"]),
    Bad("bench, compare what is missing", ["bench", "--compare", "nowhere.json", "gone.json"], 2, ["nowhere.json"]),
    Bad("bench into a folder", ["bench", "--output", "."], 2, ["--output .", "is a folder"]),
    Bad("bench into no folder", ["bench", "-o", "nowhere/a.json"], 2, ["nowhere", "mkdir"]),
    Bad("bench where nothing can be made", ["bench", "stream", "-o", "/proc/a.json"], 4, ["/proc/a.json"]),
    Bad("compare, a sheet as JPEG", [*COMPARED, "--sheet", "a.jpg"], 2, ["--sheet a.jpg", "a.png"]),
    Bad("compare, a sheet that is there", [*COMPARED, "--sheet", "mine.png"], 2, ["mine.png", "--force"]),
    Bad("compare, a sheet where nothing can be made", [*COMPARED, "--sheet", "/proc/a.png"], 4, ["/proc/a.png"]),
    Bad("quantize nothing", ["quantize"], 2, ["SOURCE"]),
    Bad("quantize without output", ["quantize", MODEL], 2, ["OUTPUT"]),
    Bad("quantize what is missing", ["quantize", "nowhere", "made"], 2, ["nowhere"]),
    Bad("quantize a text", ["quantize", "prompt.txt", "made"], 3, ["prompt.txt"]),
    Bad("quantize to an unknown scheme", ["quantize", MODEL, "made", "--transformer", "int3"], 2, ["int3"]),
    Bad("quantize to an unknown text scheme", ["quantize", MODEL, "made", "--text-encoder", "fp3"], 2, ["fp3"]),
    Bad("quantize to an unknown VAE", ["quantize", MODEL, "made", "--vae", "nf4"], 2, ["nf4"]),
    Bad("quantize an unknown part", ["quantize", MODEL, "made", "--part", "wheel"], 2, ["wheel"]),
    Bad("quantize with a missing recipe", ["quantize", MODEL, "made", "--recipe", "nowhere.toml"], 2, ["nowhere.toml"]),
    Bad("quantize with no threads", ["quantize", MODEL, "made", "--threads", "0"], 2, ["--threads"]),
    Bad("verify nothing", ["verify"], 2, ["FOLDER"]),
    Bad("verify what is missing", ["verify", "nowhere"], 2, ["nowhere"]),
    Bad("verify an empty folder", ["verify", "folder.mp4"], 3, ["folder.mp4"]),
]
NEWER = [
    Bad("batch of nothing", ["batch"], 2, ["FILE"]),
    Bad("batch without a folder", ["batch", "prompt.txt"], 2, ["--save-path"]),
    Bad("batch of what is missing", ["batch", "nowhere.txt", "--save-path", "made"], 2, ["nowhere.txt"]),
    Bad("batch of an empty file", ["batch", "empty", "--save-path", "made"], 2, ["empty"]),
    Bad("batch in latin-1", ["batch", "latin1.txt", "--save-path", "made"], 2, ["latin1.txt"]),
    Bad("batch into a file", ["batch", "prompt.txt", "--save-path", "prompt.txt", "--model", MODEL], 2, ["prompt.txt"]),
    Bad("doctor on a tpu", ["doctor", "--device", "tpu"], 2, ["tpu", "cuda"]),
    Bad("doctor with NUL", ["doctor", "--model", "a\0"], 2, ["NUL"]),
    Bad("doctor with a word", ["doctor", "me"], 2, ["me"]),
    generate("unknown on-nonfinite", ["--on-nonfinite", "hope"], "hope", "retry"),
    generate("vram limit without a unit", ["--vram-limit", "12"], "--vram-limit 12"),
    generate("ram limit of nothing", ["--ram-limit", "0GiB"], "--ram-limit 0GiB"),
    generate("unknown tier", ["--tier", "cloud"], "cloud", "resident"),
    generate("wait with a value", ["--wait=5"], "--wait"),
]
# The last ones may load torch once they know their paths.
TABLE = [
    *PROMPTS,
    *NUMBERS,
    *OUTPUTS,
    *MODELS,
    *OFFICIAL,
    *OTHERS,
    *NEWER,
    *PLANS,
    *LATE,
]
# These look into a file that is there to say what is wrong with it.
READS_A_FILE = {
    "finished video with other settings",
    "frames with other settings",
    "damaged checkpoint",
    "unfinished run there",
    "resume with other settings",
    "rerun with another model",
}


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("refusals")
    furnish(folder)
    runner = [sys.executable, "-c", RUNNER, str(folder)]
    requests = json.dumps([bad.arguments for bad in TABLE])
    done = subprocess.run(runner, input=requests, capture_output=True, text=True, check=True, timeout=100)
    return {bad.name: outcome for bad, outcome in zip(TABLE, json.loads(done.stdout), strict=True)}


def furnish(folder: Path) -> None:
    """What the bad requests stumble over."""
    for name in ("folder", "folder.mp4", "quantized", "carded", "half/hunyuan-video-t2v-720p/transformers"):
        (folder / name).mkdir(parents=True)
    (folder / "folder" / "mine.txt").write_text("keep me")
    (folder / "prompt.txt").write_text("a cat")
    (folder / "prompt").write_text("a cat")
    (folder / "mine.png").write_text("keep me")
    (folder / "empty").touch()
    (folder / "latin1.txt").write_bytes("Käfer".encode("latin-1"))
    (folder / "foreign.mp4").write_text("not a video")
    (folder / "blocked.mp4.hvlite").touch()
    (folder / "dangling.mp4").symlink_to("nowhere.mp4")
    (folder / "list.json").write_text("[1]")
    (folder / "lone_fp8.pt").write_bytes(b"PK")
    (folder / "quantized" / "hvlite.json").write_text("{}")
    (folder / "carded" / "hvlite_card.json").write_text("{")
    transformer = "hunyuan-video-t2v-720p/transformers/mp_rank_00_model_states.pt"
    (folder / "half" / transformer).write_bytes((Path(MODEL) / transformer).read_bytes())
    (folder / "carded" / "hunyuan-video-t2v-720p").symlink_to(Path(MODEL) / "hunyuan-video-t2v-720p")
    for part in ("text_encoder", "text_encoder_2"):
        (folder / "carded" / part).symlink_to(Path(MODEL) / part)
    write_finished(folder / "finished.mp4")
    write_finished(folder / "frames", VideoEncoding(kind="png"))
    write_stopped(folder / "stopped.mp4")
    write_stopped(folder / "damaged.mp4")
    (folder / "damaged.mp4.hvlite" / "step.safetensors").write_bytes(b"\x00" * 100)


def settings(**changes: Any) -> dict[str, Any]:
    from hvlite.lite.card import OFFICIAL_CARD
    from hvlite.lite.config import GenerateConfig

    config = GenerateConfig.from_card(
        OFFICIAL_CARD, **{"prompt": "a cat", "height": 32, "width": 48, "frames": 5, "steps": 2, "seed": 7, **changes}
    )
    return {**config.to_json(), "model": "other", "model_fingerprint": "0" * 16}


def write_finished(path: Path, encoding: VideoEncoding | None = None) -> None:
    frames = torch.zeros(5, 32, 48, 3, dtype=torch.uint8)
    write_video(path, [frames], fps=24, settings=settings(prompt="a dog"), encoding=encoding)


def write_stopped(output: Path) -> None:
    from hvlite.lite.state.run_state import RunState

    state = RunState.open(output)
    state.begin(settings(), "0" * 16)
    state.save_step(1, torch.zeros(1, 16, 2, 4, 6))
    state.close()


@pytest.mark.parametrize("bad", TABLE, ids=[bad.name for bad in TABLE])
def test_refused(outcomes: dict[str, dict[str, Any]], bad: Bad) -> None:
    outcome = outcomes[bad.name]
    assert outcome["code"] == bad.code, outcome["err"]
    for word in bad.words:
        assert word in outcome["err"], outcome["err"]
    lines = outcome["err"].splitlines()
    assert lines[0].startswith("error: ")
    assert len(lines) == 2, outcome["err"]
    assert lines[1].startswith("hint: ")
    assert "download" not in lines[1]
    assert lines[1] not in [f"hint: {usual}" for usual in USUAL_HINTS.values()]
    assert "Traceback" not in outcome["err"]
    assert "bug" not in lines[0]
    assert not outcome["out"]
    assert outcome["unchanged"]
    if bad not in LATE:
        assert not outcome["torch"]
        assert outcome["seconds"] < 3
    if bad.name not in READS_A_FILE:
        assert not outcome["weights"]


def test_the_table_is_long_and_its_names_differ() -> None:
    assert len({bad.name for bad in TABLE}) == len(TABLE) >= 60
