"""The folder: any plain reader opens it, ours refuses every damage, and it holds exactly what was encoded."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from hvlite.errors import CheckpointError, ConfigError
from hvlite.quantize.convert import QuantizeOptions, run_quantize
from hvlite.quantize.format import open_hvlite_text_encoder, open_hvlite_transformer, read_manifest
from hvlite.quantize.manifest import manifest_bytes
from hvlite.quantize.source import locate, open_text_encoder, open_transformer, open_vae

ROPE = {"rope_dim_list": [8, 12, 12]}


@pytest.fixture(scope="module")
def made(golden: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("format") / "out"
    run_quantize(QuantizeOptions(golden / "ckpts_official", output))
    return output


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Path:
    """A copy that may be damaged."""
    return Path(shutil.copytree(made, tmp_path / "out"))


def test_plain_safetensors_opens_every_file(made: Path) -> None:
    seen = set()
    for path in made.rglob("*.safetensors"):
        with safe_open(path, "pt") as file:
            for key in file.keys():  # noqa: SIM118 - it is no mapping
                tensor = file.get_tensor(key)
                assert tensor.numel()
                seen.add(str(tensor.dtype))
            assert file.metadata() == {"format": "pt"}
    assert seen == {"torch.float8_e4m3fn", "torch.bfloat16", "torch.float32", "torch.float16", "torch.uint8"}


def test_every_tensor_is_aligned_to_its_element(made: Path) -> None:
    widths = {"F32": 4, "BF16": 2, "F16": 2, "U8": 1, "F8_E4M3": 1, "I8": 1}
    for path in made.rglob("*.safetensors"):
        data = path.read_bytes()
        length = int.from_bytes(data[:8], "little")
        header = json.loads(data[8 : 8 + length])
        assert (8 + length) % 8 == 0
        for name, entry in header.items():
            if name != "__metadata__":
                assert entry["data_offsets"][0] % widths[entry["dtype"]] == 0, name


def test_codes_times_scale_is_the_weight(made: Path, golden: Path) -> None:
    """What a reader needs to know, in one line."""
    state = load_file(made / "transformer" / "double_blocks.01.safetensors")
    name = "double_blocks.1.img_mlp.fc2.weight"
    weight = state[name].float() * state[f"{name}_scale"][:, None]
    original = load_file(golden / "dit" / "dit_official.safetensors")[name].float()
    assert (weight - original).norm() / original.norm() < 0.03
    with open_hvlite_transformer(made) as source:
        assert torch.equal(source.read_dequantized(name), weight)


def test_plain_transformers_opens_the_language_model(golden: Path, tmp_path: Path) -> None:
    """LlamaModel.from_pretrained, through bitsandbytes, has the weights that our own decoder gives.

    Not with the golden encoder: its width is no multiple of 64, where bitsandbytes' CPU code mixes up the blocks.
    """
    pytest.importorskip("bitsandbytes")
    pytest.importorskip("accelerate")
    from bitsandbytes.functional import dequantize_4bit
    from transformers import LlamaConfig, LlamaForCausalLM, LlamaModel

    config = LlamaConfig(
        hidden_size=128, intermediate_size=192, num_hidden_layers=5, num_attention_heads=4, num_key_value_heads=2,
        vocab_size=300, pad_token_id=0,
    )  # fmt: skip
    LlamaForCausalLM(config).half().save_pretrained(tmp_path / "source")
    shutil.copy(golden / "ckpts_official" / "text_encoder" / "tokenizer.json", tmp_path / "source")
    run_quantize(QuantizeOptions(tmp_path / "source", tmp_path / "out", parts=("text_encoder",)))
    model = LlamaModel.from_pretrained(tmp_path / "out" / "text_encoder")
    assert len(model.layers) == 3  # the last two layers' states are never used
    with open_hvlite_text_encoder(tmp_path / "out") as source:
        assert source.skipped_layers == 0
        for name in source.names():
            layer, _, leaf = name.rpartition(".")
            weight = getattr(model.get_submodule(layer), leaf)
            if source.scheme(name).name == "nf4":
                weight = dequantize_4bit(weight.data, weight.quant_state)
            assert torch.equal(weight, source.read_dequantized(name, torch.float16)), name


def test_plain_transformers_opens_clip(made: Path, golden: Path) -> None:
    from transformers import CLIPTextModel

    ids = torch.tensor([[0, 5, 9, 1]])
    ours = CLIPTextModel.from_pretrained(made / "text_encoder_2", dtype=torch.float32)
    theirs = CLIPTextModel.from_pretrained(golden / "ckpts_official" / "text_encoder_2", dtype=torch.float32)
    with torch.no_grad():
        assert torch.equal(ours(ids).pooler_output, theirs(ids).pooler_output)


def test_plain_diffusers_opens_the_vae(made: Path, golden: Path) -> None:
    diffusers = pytest.importorskip("diffusers")
    vae = diffusers.AutoencoderKLHunyuanVideo.from_pretrained(made / "vae")
    state = load_file(golden / "ckpts_diffusers" / "vae" / "diffusion_pytorch_model.safetensors")
    assert vae.state_dict().keys() == state.keys()
    assert all(torch.equal(vae.state_dict()[name], state[name]) for name in state)


def test_the_source_interface_reads_it(made: Path) -> None:
    files = locate(made)
    assert files.layout == "hvlite"
    with open_transformer(files, config=ROPE) as source:
        assert source.config.rope_dim_list == (8, 12, 12)
        assert len(source.names()) == 120
        assert source.quantization.dtype == "F8_E4M3"
    with open_text_encoder(files) as text:
        assert text.config["num_hidden_layers"] == 4
    with open_vae(files) as vae:
        assert len(vae.names()) == 248


@pytest.mark.parametrize(
    "config", [{"hidden_size": 128}, {"rope_dim_list": [16, 56, 56]}, {"depth": 3}, {"rope_dim_list": [8, 12]}]
)
def test_a_config_that_contradicts_the_folder(made: Path, config: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        open_hvlite_transformer(made, config=config)


def damage_manifest(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    def run(root: Path) -> None:
        manifest = json.loads((root / "hvlite.json").read_text())
        change(manifest)
        (root / "hvlite.json").write_bytes(manifest_bytes(manifest))

    return run


def damage_tensors(file: str, change: Callable[[dict[str, torch.Tensor]], object]) -> Callable[[Path], None]:
    """Change a file's tensors and let the manifest know its new size: only the tensors are wrong."""

    def run(root: Path) -> None:
        path = root / "transformer" / file
        state = load_file(path)
        change(state)
        save_file(state, path, {"format": "pt"})
        damage_manifest(
            lambda manifest: manifest["files"][f"transformer/{file}"].update({"bytes": path.stat().st_size})
        )(root)

    return run


BLOCK, LINEAR = "single_blocks.00.safetensors", "single_blocks.0.linear1.weight"
ENTRY = "transformer/outer.safetensors"

DAMAGES: dict[str, Callable[[Path], object]] = {
    "no manifest": lambda root: (root / "hvlite.json").unlink(),
    "empty manifest": lambda root: (root / "hvlite.json").write_text(""),
    "torn manifest": lambda root: (root / "hvlite.json").write_bytes((root / "hvlite.json").read_bytes()[:-20]),
    "manifest of something else": lambda root: (root / "hvlite.json").write_text('{"format": "other"}'),
    "a list for a manifest": lambda root: (root / "hvlite.json").write_text("[]"),
    "newer version": damage_manifest(lambda m: m.update({"format_version": 2})),
    "version true": damage_manifest(lambda m: m.update({"format_version": "1"})),
    "no files": damage_manifest(lambda m: m.pop("files")),
    "files a list": damage_manifest(lambda m: m.update({"files": []})),
    "negative size": damage_manifest(lambda m: m["files"][ENTRY].update({"bytes": -1})),
    "size a float": damage_manifest(lambda m: m["files"][ENTRY].update({"bytes": 1.5})),
    "short hash": damage_manifest(lambda m: m["files"][ENTRY].update({"sha256": "ab"})),
    "no hash": damage_manifest(lambda m: m["files"][ENTRY].pop("sha256")),
    "wrong size": damage_manifest(lambda m: m["files"][ENTRY].update({"bytes": 5})),
    "path up": damage_manifest(lambda m: m["files"].update({"transformer/../x.safetensors": m["files"][ENTRY]})),
    "path absolute": damage_manifest(
        lambda m: m["files"].update({"transformer//etc/x.safetensors": m["files"][ENTRY]})
    ),
    "path deep": damage_manifest(lambda m: m["files"].update({"transformer/a/b.safetensors": m["files"][ENTRY]})),
    "path with NUL": damage_manifest(lambda m: m["files"].update({"transformer/a\0.safetensors": m["files"][ENTRY]})),
    "unknown scheme": damage_manifest(lambda m: m["schemes"]["transformer"].update({LINEAR: "fp3"})),
    "other scheme": damage_manifest(lambda m: m["schemes"]["transformer"].update({LINEAR: "int8"})),
    "scheme left out": damage_manifest(lambda m: m["schemes"]["transformer"].pop(LINEAR)),
    "no architecture": damage_manifest(lambda m: m.update({"transformer": None})),
    "other architecture": damage_manifest(lambda m: m["transformer"].update({"hidden_size": 128})),
    "impossible architecture": damage_manifest(lambda m: m["transformer"].update({"hidden_size": 0})),
    "architecture of text": damage_manifest(lambda m: m["transformer"].update({"hidden_size": "64"})),
    "unknown field": damage_manifest(lambda m: m["transformer"].update({"depth": 64})),
    "huge depth": damage_manifest(lambda m: m["transformer"].update({"mm_double_blocks_depth": 10**9})),
    "file missing": lambda root: (root / ENTRY).unlink(),
    "file cut": lambda root: (root / ENTRY).write_bytes((root / ENTRY).read_bytes()[:-1]),
    "tensor missing": damage_tensors(BLOCK, lambda state: state.pop(LINEAR)),
    "scale missing": damage_tensors(BLOCK, lambda state: state.pop(f"{LINEAR}_scale")),
    "tensor too many": damage_tensors(BLOCK, lambda state: state.update({"more": torch.zeros(1)})),
    "tensor twice": damage_tensors(BLOCK, lambda state: state.update({"img_in.proj.bias": torch.zeros(64).bfloat16()})),
    "scale too short": damage_tensors(BLOCK, lambda state: state.update({f"{LINEAR}_scale": torch.ones(3)})),
    "scale half": damage_tensors(BLOCK, lambda state: state.update({f"{LINEAR}_scale": torch.ones(448).half()})),
    "codes int8": damage_tensors(BLOCK, lambda state: state.update({LINEAR: state[LINEAR].view(torch.int8)})),
    "codes transposed": damage_tensors(BLOCK, lambda state: state.update({LINEAR: state[LINEAR].t().contiguous()})),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_damage_is_a_checkpoint_error(folder: Path, name: str) -> None:
    DAMAGES[name](folder)
    with pytest.raises(CheckpointError) as caught:
        open_hvlite_transformer(folder).close()
    assert str(folder) in caught.value.message


def test_a_link_out_of_the_folder_is_refused(folder: Path, tmp_path: Path) -> None:
    (folder / ENTRY).rename(tmp_path / "elsewhere.safetensors")
    (folder / ENTRY).symlink_to(tmp_path / "elsewhere.safetensors")
    with pytest.raises(CheckpointError, match="leads out of its folder"):
        open_hvlite_transformer(folder)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 0.0, -1.0])
def test_a_scale_that_is_no_positive_number_is_refused(folder: Path, value: float) -> None:
    damage_tensors(BLOCK, lambda state: state[f"{LINEAR}_scale"][7].fill_(value))(folder)
    with open_hvlite_transformer(folder) as source, pytest.raises(CheckpointError, match="not all positive numbers"):
        source.read_scaled(LINEAR)


def test_an_nf4_weight_that_lies_about_its_shape(folder: Path) -> None:
    path = next(path for path in sorted((folder / "text_encoder").glob("*.safetensors")) if "00002" in path.name)
    state = load_file(path)
    name = "layers.0.self_attn.q_proj.weight"
    key = f"{name}.quant_state.bitsandbytes__nf4"
    text = json.loads(bytes(state[key].tolist()))
    text["shape"] = text["shape"][::-1] if text["shape"][0] != text["shape"][1] else [text["shape"][0] * 2, 24]
    state[key] = torch.tensor(list(json.dumps(text).encode()), dtype=torch.uint8)
    save_file(state, path, {"format": "pt"})
    size = path.stat().st_size
    damage_manifest(lambda m: m["files"][f"text_encoder/{path.name}"].update({"bytes": size}))(folder)
    with open_hvlite_text_encoder(folder) as source, pytest.raises(CheckpointError, match="says it is"):
        source.read_nf4(name)


def test_the_manifest_counts_the_bytes_of_each_part(made: Path) -> None:
    manifest = read_manifest(made)
    for part in ("transformer", "vae", "text_encoder"):
        assert manifest.bytes_of(part) == sum(path.stat().st_size for path in (made / part).iterdir())
