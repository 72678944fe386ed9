"""The conversion as a whole: what it writes, that it writes the same bytes however it runs, and what it refuses."""

from __future__ import annotations

import filecmp
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from hvlite.errors import CheckpointError, ConfigError, DiskError
from hvlite.quantize.convert import Progress, QuantizeOptions, QuantizeResult, run_quantize
from hvlite.quantize.format import read_manifest
from hvlite.quantize.manifest import manifest_bytes


class StopHereError(Exception):
    """Ends a run like a crash would."""


@dataclass(frozen=True)
class Convert:
    """convert(folder=None, on_progress=None, source=None, **options): the golden official tree into a folder."""

    source: Path
    folder: Path

    def __call__(
        self,
        folder: str | None = None,
        on_progress: Callable[[Progress], None] = lambda _: None,
        source: Path | None = None,
        **options: Any,
    ) -> QuantizeResult:
        output = self.folder.parent / folder if folder else self.folder
        return run_quantize(QuantizeOptions(source or self.source, output, **options), on_progress)


@pytest.fixture
def convert(golden: Path, tmp_path: Path) -> Convert:
    return Convert(golden / "ckpts_official", tmp_path / "out")


def tree(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


@pytest.fixture(scope="module")
def reference(golden: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The golden official tree, converted without a disturbance."""
    output = tmp_path_factory.mktemp("reference") / "out"
    run_quantize(QuantizeOptions(golden / "ckpts_official", output))
    return output


def test_the_folder_is_the_documented_one(reference: Path) -> None:
    names = set(tree(reference))
    blocks = {f"transformer/{kind}_blocks.{index:02d}.safetensors" for kind in ("double", "single") for index in (0, 1)}
    assert blocks | {"hvlite.json", "report.json", "transformer/outer.safetensors"} <= names
    assert {"transformer/modulation.safetensors", "text_encoder/model-00005-of-00005.safetensors"} <= names
    assert {"tokenizer/tokenizer.json", "tokenizer_2/vocab.json", "vae/config.json"} <= names
    assert set(read_manifest(reference).files) == names - {"hvlite.json"}


def test_nothing_of_this_machine_or_this_run_is_in_it(reference: Path) -> None:
    for name, content in tree(reference).items():
        if name.endswith(".json"):
            assert str(reference).encode() not in content, name
            assert str(Path.home()).encode() not in content, name
            assert os.uname().nodename.encode() not in content, name
            assert not re.search(rb"20\d\d-\d\d-\d\d|_name_or_path", content), name


def test_one_thread_or_four_write_the_same_bytes(convert: Convert, reference: Path) -> None:
    for workers in (1, 4):
        assert tree(convert(f"w{workers}", workers=workers).output) == tree(reference)


def test_official_and_diffusers_trees_give_the_same_weights(convert: Convert, reference: Path, golden: Path) -> None:
    output = convert(source=golden / "ckpts_diffusers").output
    weights = sorted(path.relative_to(output) for path in output.rglob("*.safetensors"))
    same, different, missing = filecmp.cmpfiles(reference, output, map(str, weights), shallow=False)
    assert len(same) == len(weights) == 13
    assert not different
    assert not missing


def test_a_run_stopped_after_any_file_goes_on_and_ends_the_same(convert: Convert, reference: Path) -> None:
    written = []

    def stop(progress: Progress) -> None:
        if progress.kind == "file":
            written.append(progress.file)
            raise StopHereError

    for _ in range(100):
        try:
            result = convert(on_progress=stop)
            break
        except StopHereError:
            assert not (convert.folder / "hvlite.json").exists()
    assert len(written) == len(set(written)) == result.files_kept  # nothing was done twice
    assert tree(result.output) == tree(reference)


def test_a_run_stopped_within_a_file_goes_on(convert: Convert, reference: Path) -> None:
    for weight in range(3, 60, 7):
        seen = 0

        def stop(progress: Progress, weight: int = weight) -> None:
            nonlocal seen
            seen += progress.kind == "weight"
            if seen == weight:
                raise StopHereError

        with pytest.raises(StopHereError):
            convert(on_progress=stop)
        assert not list(convert.folder.rglob("*.part"))
    assert tree(convert().output) == tree(reference)


def test_a_finished_folder_is_left_alone(convert: Convert, reference: Path) -> None:
    output = convert().output
    before = {path: path.stat().st_mtime_ns for path in output.rglob("*")}
    again = convert()
    assert again.already_finished
    assert again.report == convert().report
    assert {path: path.stat().st_mtime_ns for path in output.rglob("*") if path != output} | {} == {
        path: time for path, time in before.items() if path != output
    }


def test_other_settings_need_force(convert: Convert) -> None:
    convert()
    with pytest.raises(ConfigError, match="finished model with other settings: recipe"):
        convert(transformer="int8")
    assert not (convert.folder / ".quantize").exists()  # a refusal leaves nothing behind
    result = convert(transformer="int8", force=True)
    assert read_manifest(result.output).schemes["transformer"]["single_blocks.0.linear1.weight"] == "int8"
    assert not list(result.output.glob(".*"))


def test_an_unfinished_folder_with_other_settings(convert: Convert) -> None:
    def stop(progress: Progress) -> None:
        if progress.file.endswith("double_blocks.00.safetensors"):
            raise StopHereError

    with pytest.raises(StopHereError):
        convert(on_progress=stop)
    with pytest.raises(ConfigError, match=r"unfinished conversion with other settings \(recipe\)") as caught:
        convert(transformer="int8")
    assert "--no-resume" in str(caught.value.hint)
    result = convert(transformer="int8", resume=False)
    assert result.files_kept == 0
    assert tree(result.output) == tree(convert("fresh", transformer="int8").output)


def test_a_finished_file_that_rotted_is_made_again(convert: Convert, reference: Path) -> None:
    def stop(progress: Progress) -> None:
        if progress.kind == "file" and progress.file.endswith("modulation.safetensors"):
            raise StopHereError

    with pytest.raises(StopHereError):
        convert(on_progress=stop)
    path = convert.folder / "transformer" / "outer.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    result = convert()
    assert result.files_written == 1
    assert tree(result.output) == tree(reference)


def test_a_torn_journal_costs_its_last_line_only(convert: Convert, reference: Path) -> None:
    def stop(progress: Progress) -> None:
        if progress.kind == "file" and progress.files_done == 20:
            raise StopHereError

    with pytest.raises(StopHereError):
        convert(on_progress=stop)
    journal = convert.folder / ".quantize" / "journal.jsonl"
    journal.write_bytes(journal.read_bytes()[:-9])
    result = convert()
    assert result.files_kept == 19
    assert tree(result.output) == tree(reference)


def test_two_runs_into_one_folder(convert: Convert) -> None:
    """The second is refused and named; the first is not disturbed."""
    refused = []

    def second(progress: Progress) -> None:
        if progress.files_done == 3 and progress.kind == "file":
            code = (
                "from pathlib import Path; from hvlite.quantize.convert import *\n"
                f"run_quantize(QuantizeOptions(Path({str(convert.source)!r}), Path({str(convert.folder)!r})))"
            )
            refused.append(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False))

    convert(on_progress=second)
    assert f"written by another run (process {os.getpid()})" in refused[0].stderr


def test_the_source_is_only_read(convert: Convert, golden: Path) -> None:
    before = tree(golden / "ckpts_official")
    convert()
    assert tree(golden / "ckpts_official") == before


def test_the_official_fp8_pair_keeps_its_codes(convert: Convert, golden: Path) -> None:
    """What is fp8 already is taken over: rounding twice would double the error."""
    from hvlite.quantize.source import open_transformer

    result = convert(source=golden / "fp8", parts=("transformer",))
    stored = load_file(result.output / "transformer" / "single_blocks.00.safetensors")
    with open_transformer(golden / "fp8" / "mp_rank_00_model_states_fp8.pt") as source:
        name = "single_blocks.0.linear1.weight"
        assert torch.equal(stored[name].view(torch.uint8), source.read(name).view(torch.uint8))
        scale = source.read_scale(name)
        assert scale is not None
        assert torch.equal(stored[f"{name}_scale"], scale.expand(stored[name].shape[0]))
    layers = [layer for layer in result.report["layers"] if layer["name"] == name]
    assert layers[0]["exact"] is True


@pytest.mark.parametrize("where", ["same", "inside", "around"])
def test_output_and_source_in_each_other(golden: Path, tmp_path: Path, where: str) -> None:
    source = tmp_path / "a" / "source"
    shutil.copytree(golden / "ckpts_official", source)
    output = {"same": source, "inside": source / "out", "around": tmp_path / "a"}[where]
    with pytest.raises(ConfigError, match="in each other"):
        run_quantize(QuantizeOptions(source, output))


def test_a_folder_with_other_files_is_refused(convert: Convert, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("years of work")
    for force in (False, True):
        with pytest.raises(ConfigError, match=r"other files \(thesis.txt\)"):
            convert(force=force, resume=not force)
        assert sorted(path.name for path in convert.folder.iterdir()) == ["thesis.txt"]
    assert (tmp_path / "out" / "thesis.txt").read_text() == "years of work"


def test_force_removes_only_what_the_manifest_lists(convert: Convert) -> None:
    output = convert().output
    outside = output.parent / "precious"
    outside.write_text("1")
    manifest = json.loads((output / "hvlite.json").read_text())
    manifest["files"]["../precious"] = manifest["files"].pop("vae/config.json")
    (output / "hvlite.json").write_bytes(manifest_bytes(manifest))
    with pytest.raises(ConfigError, match="other files"):
        convert(transformer="int8", force=True, parts=("transformer",))
    assert outside.read_text() == "1"


def test_too_little_space_is_said_beforehand(convert: Convert, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**9, 10**9 - 1000, 1000))  # type: ignore[attr-defined]
    with pytest.raises(DiskError, match=r"needs .* more bytes; the disk has 1,000 free"):
        convert("new/out")
    assert list(convert.folder.parent.iterdir()) == []


def test_a_run_that_finished_no_file_leaves_no_folder(
    convert: Convert, reference: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, data: bytes) -> None:
        raise DiskError("no space left")

    monkeypatch.setattr("hvlite.quantize.convert.write_atomic", full)  # the first file is transformer/config.json
    with pytest.raises(DiskError):
        convert()
    assert not convert.folder.exists()
    convert.folder.mkdir()
    with pytest.raises(DiskError):
        convert()
    assert list(convert.folder.iterdir()) == []  # it was there before
    monkeypatch.undo()
    convert()
    assert tree(convert.folder) == tree(reference)


@pytest.fixture
def broken(golden: Path, tmp_path: Path) -> Callable[[Callable[[dict[str, torch.Tensor]], None]], Path]:
    """broken(change): a copy of the golden diffusers tree with a changed single-file transformer."""

    def make(change: Callable[[dict[str, torch.Tensor]], None]) -> Path:
        root = tmp_path / "source"
        shutil.copytree(golden / "ckpts_diffusers", root)
        shutil.rmtree(root / "transformer")
        (root / "transformer").mkdir()
        state = load_file(golden / "dit" / "dit_official.safetensors")
        change(state)
        save_file(state, root / "transformer" / "diffusion_pytorch_model.safetensors")
        return root

    return make


BLOCK = "double_blocks.1.txt_mlp.fc2.weight"


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("name", [BLOCK, "img_in.proj.weight", "single_blocks.0.linear1.bias"])
def test_a_weight_that_is_not_finite_is_named(convert: Convert, broken: Any, name: str, value: float) -> None:
    def change(state: dict[str, torch.Tensor]) -> None:
        state[name].view(-1)[5] = value

    with pytest.raises(CheckpointError, match=f"'{name}' holds 1 values that are not finite"):
        convert(source=broken(change), parts=("transformer",))
    assert not (convert.folder / "hvlite.json").exists()


def test_a_matrix_of_zeros_is_named(convert: Convert, broken: Any) -> None:
    with pytest.raises(CheckpointError, match=f"'{BLOCK}' .* holds only zeros"):
        convert(source=broken(lambda state: state[BLOCK].zero_()), parts=("transformer",))


def test_an_hvlite_folder_is_not_a_source(convert: Convert, reference: Path) -> None:
    with pytest.raises(ConfigError, match="quantized already"):
        convert(source=reference)


def test_a_part_that_is_missing_is_named(convert: Convert, golden: Path) -> None:
    with pytest.raises(CheckpointError, match="no text encoder"):
        convert(source=golden / "fp8")


def test_bad_options() -> None:
    with pytest.raises(ConfigError, match="no part 'audio'"):
        QuantizeOptions(Path("a"), Path("b"), parts=("audio",))
    with pytest.raises(ConfigError, match="0 worker"):
        QuantizeOptions(Path("a"), Path("b"), workers=0)
