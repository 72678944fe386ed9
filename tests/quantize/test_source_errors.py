"""What is wrong with a checkpoint is said once, with the file, the tensor and what to do."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from hvlite.errors import CheckpointError, ConfigError
from hvlite.quantize.source import (
    check_finite,
    open_transformer,
)

State = dict[str, torch.Tensor]
BLOCK = "double_blocks.1.img_attn_qkv.weight"


@pytest.fixture
def save(tmp_path: Path) -> Callable[[State], Path]:
    def write(state: State) -> Path:
        save_file({name: tensor.contiguous() for name, tensor in state.items()}, tmp_path / "model.safetensors")
        return tmp_path / "model.safetensors"

    return write


def refused(
    open_it: Callable[[Path], object], path: Path, *said: str, error: type[Exception] = CheckpointError
) -> None:
    with pytest.raises(error) as caught:
        open_it(path)
    for text in said:
        assert text in str(caught.value)


def test_each_missing_tensor_is_named(save: Callable[[State], Path], transformer_state: State) -> None:
    for name in transformer_state:
        path = save({other: tensor for other, tensor in transformer_state.items() if other != name})
        refused(open_transformer, path, str(path), name.removesuffix("weight").removesuffix("bias"))


def test_each_extra_tensor_is_named(save: Callable[[State], Path], transformer_state: State) -> None:
    for extra in ("double_blocks.0.img_attn_qkv.extra", "other.weight", "model.other"):
        path = save(transformer_state | {extra: torch.zeros(1)})
        refused(open_transformer, path, str(path), f"1 not expected: {extra}")


@pytest.mark.parametrize("change", ["flat", "row_less", "row_more", "swapped", "empty"])
def test_each_misshapen_tensor_is_an_error(
    save: Callable[[State], Path], transformer_state: State, change: str
) -> None:
    changes: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
        "flat": lambda tensor: tensor.reshape(1, -1),
        "row_less": lambda tensor: tensor[1:],
        "row_more": lambda tensor: torch.cat([tensor, tensor[:1]]),
        "swapped": lambda tensor: tensor.transpose(0, -1) if tensor.dim() > 1 else tensor.reshape(-1, 1),
        "empty": lambda tensor: tensor[:0],
    }
    for name, tensor in transformer_state.items():
        changed = changes[change](tensor)
        if changed.shape != tensor.shape:
            refused(open_transformer, save(transformer_state | {name: changed}), "")


def test_a_missing_block_is_missing_not_shallower(save: Callable[[State], Path], transformer_state: State) -> None:
    path = save({name: tensor for name, tensor in transformer_state.items() if not name.startswith("double_blocks.0.")})
    refused(open_transformer, path, "24 of 120 tensors missing", "double_blocks.0.img_mod.linear.weight")


def test_a_tensor_under_two_names_is_an_error(save: Callable[[State], Path], transformer_state: State) -> None:
    path = save(transformer_state | {f"module.{BLOCK}": transformer_state[BLOCK].clone()})
    refused(open_transformer, path, "twice", BLOCK, f"module.{BLOCK}")


def test_shards_are_named_together(golden: Path, tmp_path: Path) -> None:
    folder = tmp_path / "transformer"
    shutil.copytree(golden / "ckpts_diffusers" / "transformer", folder)
    index = folder / "diffusion_pytorch_model.safetensors.index.json"
    value = json.loads(index.read_text())
    shard = "diffusion_pytorch_model-00003-of-00003.safetensors"
    state = load_file(folder / shard)
    name = next(iter(state))
    save_file({other: tensor for other, tensor in state.items() if other != name}, folder / shard)
    index.write_text(
        json.dumps({"weight_map": {key: place for key, place in value["weight_map"].items() if key != name}})
    )
    refused(open_transformer, folder, "safetensors and 2 more: 1 of", f"tensors missing: {name}")


def test_block_numbers_do_not_cost_memory(save: Callable[[State], Path], transformer_state: State) -> None:
    refused(
        open_transformer, save(transformer_state | {"double_blocks.999999999.x": torch.zeros(1)}), "block 999999999"
    )


@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.int64])
def test_integers_are_not_weights(save: Callable[[State], Path], transformer_state: State, dtype: torch.dtype) -> None:
    refused(
        open_transformer, save(transformer_state | {BLOCK: transformer_state[BLOCK].to(dtype)}), BLOCK, "is stored as"
    )


def test_parts_of_one_tensor_have_one_dtype(golden: Path, save: Callable[[State], Path]) -> None:
    state: State = {}
    for shard in sorted((golden / "ckpts_diffusers" / "transformer").glob("*.safetensors")):
        state |= load_file(shard)
    name = "transformer_blocks.0.attn.to_k.weight"
    refused(open_transformer, save(state | {name: state[name].half()}), name, "different types")
    uneven = {
        "transformer_blocks.0.attn.to_q.weight": torch.zeros(63, 64).bfloat16(),
        name: torch.zeros(65, 64).bfloat16(),
    }
    refused(open_transformer, save(state | uneven), "to_q.weight", "[63, 64]", "expected [64, 64]")


FLOATS = (torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.float8_e5m2)
NOT_FINITE = [(dtype, value) for dtype in FLOATS for value in (float("nan"), float("inf"), float("-inf"))]


@pytest.mark.parametrize(("dtype", "value"), [*NOT_FINITE, (torch.float8_e4m3fn, float("nan"))], ids=str)  # no infinity
def test_values_that_are_not_finite(dtype: torch.dtype, value: float) -> None:
    tensor = torch.ones(4, 5)
    check_finite(tensor.to(dtype), BLOCK, "file")
    tensor[2, 3] = value
    with pytest.raises(
        CheckpointError, match=rf"file: '{BLOCK}' holds 1 values that are not finite, the first at \[2, 3\]"
    ):
        check_finite(tensor.to(dtype), BLOCK, "file")


def test_integers_and_nothing_are_finite() -> None:
    check_finite(torch.arange(3), "x", "file")
    check_finite(torch.zeros(0), "x", "file")


CONTRADICTIONS: dict[str, Any] = {
    "hidden_size": 128,
    "heads_num": 4,
    "mm_double_blocks_depth": 20,
    "mm_single_blocks_depth": 40,
    "text_states_dim": 4096,
    "text_states_dim_2": 768,
    "mlp_width_ratio": 3.0,
    "guidance_embed": False,
    "in_channels": 33,
    "out_channels": 8,
    "patch_size": [1, 1, 1],
    "qk_norm": None,
    "refiner_depth": 1,
    "rope_dim_list": [16, 56, 56],
}


@pytest.mark.parametrize("name", CONTRADICTIONS)
def test_config_against_the_shapes(golden: Path, name: str) -> None:
    with pytest.raises(ConfigError, match=name):
        open_transformer(golden / "ckpts_official", config={name: CONTRADICTIONS[name]})


@pytest.mark.parametrize(
    "config",
    [
        {"hidden": 64},
        {"num_attention_heads": 2},
        {"heads_num": "2"},
        {"heads_num": True},
        {"rope_dim_list": [8, 12]},
        {"rope_dim_list": "8,12,12"},
        {"rope_dim_list": [8, 12, -20]},
        {"rope_dim_list": [7, 12, 13]},
        {"rope_theta": -1},
        {"rope_theta": "256"},
        {"rope_theta": 1e9},
        {"heads_num": 2**31},
        {"rope_theta": float("nan")},
        {"guidance_embed": 1},
        {"qk_norm": "layer"},
        {"patch_size": 2},
        {"mlp_width_ratio": True},
        {1: 2},
    ],
    ids=str,
)
def test_config_that_cannot_be(golden: Path, config: Any) -> None:
    with pytest.raises(ConfigError) as error:
        open_transformer(golden / "ckpts_official", config=config)
    assert str(next(iter(config))) in str(error.value)


def test_config_wins_over_the_file_beside_the_weights(golden: Path, tmp_path: Path) -> None:
    shutil.copy(golden / "dit" / "dit_official.safetensors", tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"rope_dim_list": [4, 4, 24], "rope_theta": 10_000, "other": 1}))
    stored = open_transformer(tmp_path).config
    assert (stored.rope_dim_list, stored.rope_theta) == ((4, 4, 24), 10_000.0)
    given = open_transformer(tmp_path, config={"rope_dim_list": [8, 12, 12]}).config
    assert (given.rope_dim_list, given.rope_theta) == ((8, 12, 12), 10_000.0)


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"_class_name": "FluxTransformer2DModel"}, "FluxTransformer2DModel"),
        ({"_class_name": "HunyuanVideo15Transformer3DModel"}, "HunyuanVideo15"),
        ({"image_condition_type": "token_replace"}, "image-to-video"),
        ({"num_layers": 20}, "mm_double_blocks_depth = 20"),
        ({"num_attention_heads": 3, "attention_head_dim": 32}, "heads_num = 3"),
        ({"num_attention_heads": "x"}, "heads_num = 'x'"),
        ({"num_attention_heads": 2, "attention_head_dim": "32"}, "hidden_size = None"),
        ({"hidden_size": 32}, "hidden_size = 32"),
        ([1], "not a JSON object"),
    ],
)
def test_config_file_of_another_model(golden: Path, tmp_path: Path, config: Any, said: str) -> None:
    shutil.copy(golden / "dit" / "dit_official.safetensors", tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(config))
    refused(open_transformer, tmp_path / "dit_official.safetensors", "config.json", said)


def without_norms(state: State) -> State:
    return {name: tensor for name, tensor in state.items() if not name.endswith(("q_norm.weight", "k_norm.weight"))}


def test_heads_without_norms_come_from_a_config(save: Callable[[State], Path], transformer_state: State) -> None:
    path = save(without_norms(transformer_state))
    refused(open_transformer, path, "attention heads", "heads_num")
    config = open_transformer(path, config={"heads_num": 4, "rope_dim_list": [4, 6, 6]}).config
    assert (config.heads_num, config.qk_norm) == (4, None)
    refused(lambda path: open_transformer(path, config={"heads_num": 7}), path, "heads_num 7", error=ConfigError)
