"""A model is found from whichever of its folders a person gives."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from hvlite.errors import CheckpointError
from hvlite.quantize.source import WeightFiles, locate, open_text_encoder, open_transformer


def where(weights: WeightFiles | None) -> Path:
    assert weights is not None
    return weights.path


def test_locate_finds_the_official_tree_from_every_folder_of_it(
    golden: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "repo" / "ckpts"
    shutil.copytree(golden / "ckpts_official", root)
    model = root / "hunyuan-video-t2v-720p"
    for start in (root, root.parent, model):
        files = locate(start)
        assert files.layout == "official"
        assert where(files.transformer) == model / "transformers" / "mp_rank_00_model_states.pt"
        assert where(files.vae) == model / "vae" / "pytorch_model.pt"
        assert where(files.text_encoder) == root / "text_encoder" / "model.safetensors"
        assert files.tokenizer == root / "text_encoder"
        assert files.tokenizer_2 == root / "text_encoder_2"
    monkeypatch.chdir(model)
    assert where(locate(".").text_encoder).is_file()


def test_locate_finds_the_diffusers_tree(golden: Path) -> None:
    files = locate(golden / "ckpts_diffusers")
    assert files.layout == "diffusers"
    assert where(files.transformer).name.endswith(".safetensors.index.json")
    assert files.tokenizer == golden / "ckpts_diffusers" / "tokenizer"


@pytest.mark.parametrize(
    ("folder", "part"),
    [
        ("ckpts_diffusers/transformer", "transformer"),
        ("ckpts_diffusers/vae", "vae"),
        ("ckpts_diffusers/text_encoder", "text_encoder"),
        ("ckpts_diffusers/text_encoder_2", "text_encoder_2"),
        ("ckpts_official/hunyuan-video-t2v-720p/transformers", "transformer"),
        ("ckpts_official/hunyuan-video-t2v-720p/vae", "vae"),
        ("ckpts_official/text_encoder", "text_encoder"),
        ("ckpts_official/text_encoder_2", "text_encoder_2"),
    ],
)
def test_locate_takes_one_parts_folder(golden: Path, folder: str, part: str) -> None:
    files = locate(golden / folder)
    found = [name for name in ("transformer", "vae", "text_encoder", "text_encoder_2") if getattr(files, name)]
    assert found == [part]


def test_dit_weight_replaces_the_transformer(golden: Path) -> None:
    fp8 = golden / "fp8" / "mp_rank_00_model_states_fp8.pt"
    for given in (fp8, fp8.parent):
        files = locate(golden / "ckpts_official", dit_weight=given)
        assert where(files.transformer) == fp8
        assert where(files.vae).is_file()


def test_the_transformer_may_lie_elsewhere(golden: Path, tmp_path: Path) -> None:
    shutil.copytree(golden / "ckpts_official", tmp_path / "ckpts")
    shutil.rmtree(tmp_path / "ckpts" / "hunyuan-video-t2v-720p" / "transformers")
    assert locate(tmp_path / "ckpts").transformer is None
    single = golden / "dit" / "dit_official.safetensors"
    files = locate(tmp_path / "ckpts", dit_weight=single)
    assert where(files.transformer) == single
    assert where(files.text_encoder).is_file()
    with open_transformer(files) as source:
        assert source.paths == (single,)


def test_locate_imports_no_torch(golden: Path) -> None:
    program = (
        "import sys; from hvlite.quantize.readers.locate import locate; "
        "locate(sys.argv[1]); assert 'torch' not in sys.modules"
    )
    assert subprocess.run([sys.executable, "-c", program, golden / "ckpts_official"], check=False).returncode == 0


def refused(path: Path, *said: str) -> None:
    with pytest.raises(CheckpointError) as caught:
        locate(path)
    for text in said:
        assert text in str(caught.value)


def test_missing_parts(golden: Path, tmp_path: Path) -> None:
    refused(tmp_path / "nowhere", "does not exist")
    refused(tmp_path, "holds no model")
    refused(Path("a\0b"), "does not exist")
    refused(tmp_path / ("n" * 300), "path")
    refused(Path("~no_such_user/model"), "path")
    (tmp_path / "loop").symlink_to("loop")
    refused(tmp_path / "loop", "does not exist")
    for opener in (open_transformer, open_text_encoder):
        with pytest.raises(CheckpointError, match="usable path"):
            opener(tmp_path / ("n" * 300))
    shutil.copytree(golden / "ckpts_official" / "hunyuan-video-t2v-720p", tmp_path / "m" / "hunyuan-video-t2v-720p")
    files = locate(tmp_path / "m")
    assert files.text_encoder is None
    with pytest.raises(CheckpointError, match="has no text encoder"):
        open_text_encoder(files)
    (tmp_path / "hvlite.json").write_text("{}")
    assert locate(tmp_path).layout == "hvlite"
    with pytest.raises(CheckpointError, match="not the manifest of an hvlite model"):
        open_transformer(tmp_path)


def test_several_models_in_one_folder(golden: Path, tmp_path: Path) -> None:
    source = golden / "ckpts_official" / "hunyuan-video-t2v-720p"
    for name in ("hunyuan-video-i2v-720p", "hunyuan-video-t2v-720p"):
        shutil.copytree(source, tmp_path / name)
    found = locate(tmp_path).transformer
    assert found is not None
    assert "t2v" in found.path.parent.parent.name
    shutil.copytree(source, tmp_path / "hunyuan-video-t2v-720p-mine")
    refused(tmp_path, "several models", "hunyuan-video-t2v-720p-mine")
