"""`verify` finds every kind of damage, and with a source every weight that is not the source's."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from hvlite.errors import CheckpointError
from hvlite.quantize.convert import QuantizeOptions, run_quantize
from hvlite.quantize.manifest import manifest_bytes
from hvlite.quantize.verify import run_verify


@pytest.fixture(scope="module")
def made(golden: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("verify") / "out"
    run_quantize(QuantizeOptions(golden / "ckpts_official", output))
    return output


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "out"))


def test_a_good_folder_is_right(made: Path, golden: Path) -> None:
    result = run_verify(made, golden / "ckpts_official")
    assert result.ok
    assert (result.files, result.weights) == (27, 120 + 38 + 52 + 248)
    assert len(result.errors) == result.weights
    assert max(error.quality.relative_error for error in result.errors) < 0.1
    assert run_verify(made, golden / "ckpts_diffusers").ok  # the same weights in another form


def test_the_errors_are_those_of_the_report(made: Path, golden: Path) -> None:
    """The report was summed while encoding, these from what is on disk."""
    layers = json.loads((made / "report.json").read_text())["layers"]
    reported = {(layer["part"], layer["name"]): layer for layer in layers}
    for error in run_verify(made, golden / "ckpts_official").errors:
        layer = reported[error.part, error.name]
        assert error.quality.relative_error == pytest.approx(layer.get("relative_error", 0), rel=1e-4, abs=1e-9)
        assert error.quality.cosine == pytest.approx(layer.get("cosine", 1), abs=1e-6)


def test_every_flipped_bit_is_found(folder: Path) -> None:
    """200 single bits, over all files."""
    draw = random.Random(0)
    paths = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != "hvlite.json"]
    for _ in range(200):
        path = draw.choice(paths)
        data = bytearray(path.read_bytes())
        place = draw.randrange(len(data))
        data[place] ^= 1 << draw.randrange(8)
        original = path.read_bytes()
        path.write_bytes(data)
        result = run_verify(folder)
        path.write_bytes(original)
        assert result.problems == (f"{path.relative_to(folder)} has other bytes than hvlite.json says",)
    assert run_verify(folder).ok


def test_missing_short_and_strange_files(folder: Path) -> None:
    (folder / "transformer" / "single_blocks.01.safetensors").unlink()
    (folder / "report.json").write_bytes(b"{}")
    shutil.copy(folder / "vae" / "diffusion_pytorch_model.safetensors", folder / "vae" / "more.safetensors")
    (folder / ".quantize").mkdir()
    (folder / ".quantize" / "journal.jsonl").write_text("")
    problems = run_verify(folder).problems
    assert len(problems) == 4
    assert "single_blocks.01.safetensors is missing" in problems[0]
    assert "report.json is 2 bytes long" in problems[1]
    assert "journal.jsonl is left from an unfinished run" in problems[2]
    assert "vae/more.safetensors is not named" in problems[3]


def rewrite(folder: Path, file: str, name: str, tensor: torch.Tensor) -> None:
    """Change a tensor, and the manifest's hash with it: what a program with a bug would leave."""
    import hashlib

    path = folder / "transformer" / file
    state = load_file(path)
    assert state[name].shape == tensor.shape
    save_file({**state, name: tensor}, path, {"format": "pt"})
    manifest = json.loads((folder / "hvlite.json").read_text())
    data = path.read_bytes()
    manifest["files"][f"transformer/{file}"] = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    (folder / "hvlite.json").write_bytes(manifest_bytes(manifest))


BLOCK, LINEAR = "single_blocks.00.safetensors", "single_blocks.0.linear1.weight"


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 0.0, -1e-3])
def test_scales_that_are_no_positive_numbers(folder: Path, value: float) -> None:
    scale = load_file(folder / "transformer" / BLOCK)[f"{LINEAR}_scale"]
    scale[5] = value
    rewrite(folder, BLOCK, f"{LINEAR}_scale", scale)
    assert any("scales of" in problem and LINEAR in problem for problem in run_verify(folder).problems)


def test_codes_and_weights_that_are_not_finite(folder: Path) -> None:
    codes = load_file(folder / "transformer" / BLOCK)[LINEAR].view(torch.uint8)
    codes[1, 2] = 0x7F
    rewrite(folder, BLOCK, LINEAR, codes.view(torch.float8_e4m3fn))
    bias = load_file(folder / "transformer" / "outer.safetensors")["img_in.proj.bias"]
    bias[0] = float("inf")
    rewrite(folder, "outer.safetensors", "img_in.proj.bias", bias)
    problems = run_verify(folder).problems
    assert len(problems) == 2
    assert any(LINEAR in problem for problem in problems)
    assert any("img_in.proj.bias" in problem for problem in problems)


@pytest.mark.parametrize("what", ["rows swapped", "scale doubled", "one row zeroed"])
def test_weights_that_are_not_the_sources(folder: Path, golden: Path, what: str) -> None:
    state = load_file(folder / "transformer" / BLOCK)
    codes, scale = state[LINEAR].view(torch.uint8), state[f"{LINEAR}_scale"]
    if what == "rows swapped":
        codes = torch.cat([codes[64:128], codes[:64], codes[128:]])
    elif what == "scale doubled":
        scale = scale * 2
    else:
        codes[17] = 0
    rewrite(folder, BLOCK, LINEAR, codes.view(torch.float8_e4m3fn))
    rewrite(folder, BLOCK, f"{LINEAR}_scale", scale)
    assert run_verify(folder).ok  # nothing is wrong with the folder by itself
    problems = run_verify(folder, golden / "ckpts_official").problems
    if what == "one row zeroed":  # one of 448 rows is 5 % of the norm: below what fp8 may differ by
        assert not problems
    else:
        assert [problem.split(":")[0] for problem in problems] == [f"transformer/{LINEAR}"]


def test_a_folder_without_a_manifest(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"it has no hvlite\.json"):
        run_verify(tmp_path)
