"""Every convention for fp8 scales gives the same weights; a scale too many, too few or impossible is an error."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from hvlite.errors import CheckpointError
from hvlite.quantize.readers.torch_file import open_torch
from hvlite.quantize.source import open_text_encoder, open_transformer

State = dict[str, torch.Tensor]
ONE = "double_blocks.0.img_attn_qkv"


@pytest.fixture(scope="module")
def pair(golden: Path) -> tuple[State, State]:
    """The golden official fp8 pair: tensors by name, scales by module."""
    with open_torch(golden / "fp8" / "mp_rank_00_model_states_fp8.pt") as file:
        weights = {name: file.read(name) for name in file.names()}
    with open_torch(golden / "fp8" / "mp_rank_00_model_states_fp8_map.pt") as file:
        return weights, {name: file.read(name) for name in file.names()}


@pytest.fixture
def expected(pair: tuple[State, State]) -> State:
    weights, scales = pair
    result = {name: tensor.float() for name, tensor in weights.items()}
    return result | {f"{name}.weight": result[f"{name}.weight"] * scale for name, scale in scales.items()}


def as_json(value: object) -> torch.Tensor:
    return torch.tensor(list(json.dumps(value).encode()), dtype=torch.uint8)


def conventions(weights: State, scales: State) -> dict[str, State]:
    kind = {f"{name}.comfy_quant": as_json({"format": "float8_e4m3fn"}) for name in scales}
    unused = {f"{name}.scale_input": torch.ones(1) for name in scales}
    return {
        "fp8_scale": weights | {f"{name}.fp8_scale": scale for name, scale in scales.items()},
        "scale_weight": weights
        | {f"{name}.scale_weight": scale[0] for name, scale in scales.items()}
        | unused
        | {"scaled_fp8": torch.empty(0, dtype=torch.float8_e4m3fn)},
        "weight_scale": weights
        | {
            f"{name}.weight_scale": scale.expand(len(weights[f"{name}.weight"]), 1).clone()
            for name, scale in scales.items()
        }
        | kind,
    }


def test_official_pair(golden: Path, pair: tuple[State, State], expected: State) -> None:
    weights, scales = pair
    with open_transformer(golden / "fp8" / "mp_rank_00_model_states_fp8.pt") as source:
        assert source.quantization.convention == "official_map"
        assert source.quantization.dtype == "F8_E4M3"
        assert source.quantization.names == {f"{name}.weight" for name in scales}
        for name in source.names():
            assert torch.equal(source.read_dequantized(name), expected[name]), name
            assert torch.equal(source.read(name).view(torch.uint8), weights[name].view(torch.uint8)), name
        assert source.read_scale("img_in.proj.weight") is None


def test_rounding_the_scale_as_the_official_bf16_path_does(golden: Path, pair: tuple[State, State]) -> None:
    weights, scales = pair
    with open_transformer(golden / "fp8" / "mp_rank_00_model_states_fp8.pt") as source:
        ours = source.read_dequantized(f"{ONE}.weight", torch.bfloat16, torch.bfloat16)
    assert torch.equal(ours, weights[f"{ONE}.weight"].bfloat16() * scales[ONE].bfloat16())


@pytest.mark.parametrize("prefix", ["", "model.diffusion_model."])
@pytest.mark.parametrize("convention", ["fp8_scale", "scale_weight", "weight_scale"])
def test_scales_in_the_file(
    tmp_path: Path, pair: tuple[State, State], expected: State, convention: str, prefix: str
) -> None:
    state = conventions(*pair)[convention]
    save_file({prefix + name: tensor for name, tensor in state.items()}, tmp_path / "model.safetensors")
    with open_transformer(tmp_path / "model.safetensors") as source:
        assert source.quantization.convention == convention
        for name in source.names():
            assert torch.equal(source.read_dequantized(name), expected[name]), name


def test_scales_beside_a_safetensors_file(tmp_path: Path, pair: tuple[State, State], expected: State) -> None:
    save_file(pair[0], tmp_path / "model_fp8.safetensors")
    save_file(pair[1], tmp_path / "model_fp8_map.safetensors")
    with open_transformer(tmp_path) as source:
        assert torch.equal(source.read_dequantized(f"{ONE}.weight"), expected[f"{ONE}.weight"])


def test_split_projections_have_a_scale_each(golden: Path, tmp_path: Path) -> None:
    """fp8 under diffusers' names: q, k and v of one fused weight may be scaled differently."""
    state: State = {}
    for shard in sorted((golden / "ckpts_diffusers" / "transformer").glob("*.safetensors")):
        state |= load_file(shard)
    base, real = "transformer_blocks.0.attn", {}
    for name, tensor in list(state.items()):
        if "transformer_blocks." in name and tensor.dim() == 2:
            scale = tensor.abs().max().float() / 448
            state[name] = (tensor.float() / scale).to(torch.float8_e4m3fn)
            state[name.replace(".weight", ".scale_weight")] = scale
            real[name] = state[name].float() * scale
    norm = "norm_out.linear"
    rows = state[f"{norm}.weight"].float().abs().amax(1, keepdim=True) / 448
    state[f"{norm}.weight"] = (state[f"{norm}.weight"].float() / rows).to(torch.float8_e4m3fn)
    state[f"{norm}.scale_weight"] = rows
    save_file(state, tmp_path / "model.safetensors")
    with open_transformer(tmp_path / "model.safetensors", config={"rope_dim_list": [8, 12, 12]}) as source:
        fused = torch.cat([real[f"{base}.to_{x}.weight"] for x in "qkv"])
        assert torch.equal(source.read_dequantized("double_blocks.0.img_attn_qkv.weight"), fused)
        scale = source.read_scale("double_blocks.0.img_attn_qkv.weight")
        assert scale is not None
        assert scale.shape == (192,)
        swapped = (state[f"{norm}.weight"].float() * rows).roll(64, 0)
        assert torch.equal(source.read_dequantized("final_layer.adaLN_modulation.1.weight"), swapped)


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2])
def test_plain_casts(tmp_path: Path, transformer_state: State, dtype: torch.dtype) -> None:
    cast = {
        name: tensor.to(dtype) if "_blocks." in name and tensor.dim() == 2 else tensor
        for name, tensor in transformer_state.items()
    }
    save_file(cast, tmp_path / "model.safetensors")
    with open_transformer(tmp_path / "model.safetensors") as source:
        assert source.quantization.convention == "plain_cast"
        for name in source.names():
            assert source.read_scale(name) is None
            assert torch.equal(source.read_dequantized(name), cast[name].float())


def test_scaled_weights_without_scales_are_not_taken_for_plain_casts(tmp_path: Path, pair: tuple[State, State]) -> None:
    save_file(pair[0], tmp_path / "model.safetensors")
    with (
        open_transformer(tmp_path / "model.safetensors") as source,
        pytest.raises(CheckpointError, match=f"'{ONE}.weight' is fp8 and reaches 448"),
    ):
        source.read_dequantized(f"{ONE}.weight")


def test_the_official_file_needs_its_map(golden: Path, tmp_path: Path) -> None:
    shutil.copy(golden / "fp8" / "mp_rank_00_model_states_fp8.pt", tmp_path)
    with pytest.raises(CheckpointError, match="scales are missing") as error:
        open_transformer(tmp_path / "mp_rank_00_model_states_fp8.pt")
    assert "mp_rank_00_model_states_fp8_map.pt" in str(error.value)


BAD_SCALES: dict[str, tuple[dict[str, torch.Tensor | None], str]] = {
    "missing": ({ONE: None}, f"no scale for '{ONE}.weight'"),
    "of_nothing": ({"double_blocks.7.img_attn_qkv": torch.ones(1)}, "does not exist"),
    "of_a_bf16_weight": ({"img_in.proj": torch.ones(1)}, "not stored in fp8"),
    "zero": ({ONE: torch.zeros(1)}, "not a positive number"),
    "negative": ({ONE: -torch.ones(1)}, "not a positive number"),
    "nan": ({ONE: torch.full((1,), float("nan"))}, "not a positive number"),
    "infinite": ({ONE: torch.full((1,), float("inf"))}, "not a positive number"),
    "wrong_length": ({ONE: torch.ones(5)}, "expected one"),
    "blockwise": ({ONE: torch.ones(384, 2, 1)}, "expected one"),
    "integer": ({ONE: torch.ones(1, dtype=torch.int32)}, "expected one"),
    "fp8": ({ONE: torch.ones(1).to(torch.float8_e4m3fn)}, "expected one"),
}


@pytest.mark.parametrize("case", BAD_SCALES)
@pytest.mark.parametrize("store", ["map", "fp8_scale", "weight_scale"])
def test_scales_that_cannot_be(tmp_path: Path, golden: Path, pair: tuple[State, State], case: str, store: str) -> None:
    changes, said = BAD_SCALES[case]
    weights, scales = pair
    scales = {name: scale for name, scale in (scales | changes).items() if scale is not None}
    path = tmp_path / "model.safetensors"
    if store == "map":
        path = tmp_path / "mp_rank_00_model_states_fp8.pt"
        shutil.copy(golden / "fp8" / path.name, path)
        torch.save(scales, tmp_path / "mp_rank_00_model_states_fp8_map.pt")
    else:
        save_file(weights | {f"{name}.{store}": scale for name, scale in scales.items()}, path)
    with pytest.raises(CheckpointError, match=said) as error:
        open_transformer(path)
    assert str(tmp_path) in error.value.message


def test_conventions_do_not_mix(tmp_path: Path, pair: tuple[State, State]) -> None:
    path = tmp_path / "model.safetensors"
    mixed = conventions(*pair)
    save_file({name: tensor.clone() for name, tensor in (mixed["fp8_scale"] | mixed["scale_weight"]).items()}, path)
    with pytest.raises(CheckpointError, match="two kinds"):
        open_transformer(path)


@pytest.mark.parametrize(
    "content",
    [as_json({"format": "nvfp4"}), as_json([]), as_json("x"), torch.tensor([123], dtype=torch.uint8), torch.ones(4)],
    ids=range(5),
)
def test_kinds_of_quantization_that_are_not_read(
    tmp_path: Path, pair: tuple[State, State], content: torch.Tensor
) -> None:
    state = conventions(*pair)["weight_scale"] | {f"{ONE}.comfy_quant": content}
    save_file(state, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match="quantization that is not read"):
        open_transformer(tmp_path / "model.safetensors")


def test_scaled_text_encoder(golden: Path, tmp_path: Path) -> None:
    plain = open_text_encoder(golden / "ckpts_official")
    state: State = {
        "scaled_fp8": torch.empty(0, dtype=torch.float8_e4m3fn),
        "tokenizer": torch.zeros(9, dtype=torch.uint8),
    }
    for name in plain.names():
        tensor = plain.read(name)
        if name.endswith("_proj.weight"):
            scale = tensor.float().abs().max() / 448
            state[f"model.{name.replace('.weight', '.scale_weight')}"] = scale
            tensor = (tensor.float() / scale).to(torch.float8_e4m3fn)
        state[f"model.{name}"] = tensor
    save_file(state, tmp_path / "llava_llama3_fp8_scaled.safetensors")
    shutil.copy(golden / "ckpts_official" / "text_encoder" / "config.json", tmp_path)
    with open_text_encoder(tmp_path / "llava_llama3_fp8_scaled.safetensors") as source:
        assert source.quantization.convention == "scale_weight"
        for name in source.names():
            limit = float(plain.read(name).float().abs().max()) / 20
            assert float((source.read_dequantized(name) - plain.read(name).float()).abs().max()) <= limit, name
