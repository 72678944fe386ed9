"""Every layout gives the same named tensors: official tree, diffusers tree, single file, with and without prefixes."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from hvlite.errors import CheckpointError
from hvlite.quantize.architecture import TransformerConfig
from hvlite.quantize.readers.keymap import comfyui_recipe, diffusers_recipe, ldm_recipe
from hvlite.quantize.source import (
    WeightSource,
    open_text_encoder,
    open_text_encoder_2,
    open_transformer,
    open_vae,
)

State = dict[str, torch.Tensor]
ROPE = {"rope_dim_list": [8, 12, 12]}


def equal(source: WeightSource, expected: State) -> bool:
    """Same names, dtypes and bits; and what `info` says is what `read` gives."""
    if set(source.names()) != set(expected):
        return False
    for name, tensor in expected.items():
        read, info = source.read(name), source.info(name)
        if (info.shape, info.torch_dtype) != (tuple(read.shape), read.dtype) or read.dtype != tensor.dtype:
            return False
        if not torch.equal(read, tensor) or not read.is_contiguous():
            return False
    return True


def test_transformer_from_both_trees(golden: Path, transformer_state: State) -> None:
    for root, layout in (("ckpts_official", "official"), ("ckpts_diffusers", "diffusers")):
        with open_transformer(golden / root, config=ROPE) as source:
            assert equal(source, transformer_state), root
            assert source.names_layout == layout
            assert source.quantization.convention == "none"
            assert source.total_bytes == sum(tensor.nbytes for tensor in transformer_state.values())


def test_config_is_inferred_and_completed(golden: Path) -> None:
    stated = json.loads((golden / "dit" / "dit.json").read_text())["config"]
    expected = TransformerConfig(**{**stated, "rope_dim_list": (8, 12, 12), "patch_size": (1, 2, 2)})
    single = golden / "dit" / "dit_official.safetensors"
    assert open_transformer(golden / "ckpts_diffusers").config == expected
    assert open_transformer(single, config=stated).config == expected
    assert open_transformer(golden / "ckpts_official", config=ROPE).config == expected
    assert open_transformer(golden / "ckpts_official").config.rope_dim_list is None
    assert open_transformer(golden / "fp8" / "mp_rank_00_model_states_fp8.pt").config.rope_dim_list == (16, 56, 56)


def diffusers_spelling(state: State) -> State:
    """The state under diffusers' names, made the way diffusers' converter makes it."""
    result: State = {}
    for name, tensor in state.items():
        recipe = diffusers_recipe(name)
        if recipe.kind == "rows":
            hidden = state["img_in.proj.bias"].shape[0]
            sizes = [hidden] * 3 + ([tensor.shape[0] - 3 * hidden] if len(recipe.sources) == 4 else [])
            result |= {source: part.clone() for source, part in zip(recipe.sources, tensor.split(sizes), strict=True)}
        elif recipe.kind == "swap_halves":
            shift, scale = tensor.chunk(2)
            result[recipe.sources[0]] = torch.cat([scale, shift])
        else:
            result[recipe.sources[0]] = tensor
    return result


def comfyui_spelling(state: State) -> State:
    """Older ComfyUI names: the q/k norms' weights are called scale."""
    named = {comfyui_recipe(name).sources[0]: tensor for name, tensor in state.items()}
    return {name.replace("_norm.weight", "_norm.scale"): tensor for name, tensor in named.items()}


SPELLINGS: dict[str, Callable[[State], State]] = {
    "official": dict,
    "comfyui": comfyui_spelling,
    "comfyui_new": lambda state: {comfyui_recipe(name).sources[0]: tensor for name, tensor in state.items()},
    "diffusers": diffusers_spelling,
}
PREFIXES = [
    "",
    "model.diffusion_model.",
    "model.model.",
    "module.",
    "transformer.",
    "net.",
    "module.model.diffusion_model.",
]


@pytest.mark.parametrize("prefix", PREFIXES)
@pytest.mark.parametrize("spelling", SPELLINGS)
def test_single_files(tmp_path: Path, transformer_state: State, spelling: str, prefix: str) -> None:
    path = tmp_path / "model.safetensors"
    save_file({prefix + name: tensor for name, tensor in SPELLINGS[spelling](transformer_state).items()}, path)
    with open_transformer(path) as source:
        assert equal(source, transformer_state)
        assert source.names_layout == spelling.removesuffix("_new")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
def test_any_float_dtype_is_kept(tmp_path: Path, transformer_state: State, dtype: torch.dtype) -> None:
    state = {name: tensor.to(dtype) for name, tensor in transformer_state.items()}
    save_file(diffusers_spelling(state), tmp_path / "model.safetensors")
    with open_transformer(tmp_path / "model.safetensors") as source:
        assert equal(source, state)


def test_vae_from_both_trees_and_every_spelling(golden: Path, tmp_path: Path, vae_state: State) -> None:
    official = open_vae(golden / "ckpts_official")
    assert equal(official, {name: tensor.float() for name, tensor in vae_state.items()})
    assert (official.config.sample_size, official.config.sample_tsize) == (32, 16)
    diffusers = open_vae(golden / "ckpts_diffusers")
    assert equal(diffusers, vae_state)
    assert (diffusers.config.sample_size, diffusers.config.sample_tsize) == (256, 64)
    shutil.copy(golden / "ckpts_official" / "hunyuan-video-t2v-720p" / "vae" / "config.json", tmp_path)
    extra = {"encoder.other": torch.zeros(1)}  # beside prefixed names it is something else's
    for state, layout in (
        ({f"vae.{name}": tensor for name, tensor in vae_state.items()} | extra, "official"),
        ({f"first_stage_model.{name}": tensor for name, tensor in vae_state.items()}, "official"),
        (ldm_spelling(vae_state), "comfyui"),
    ):
        save_file(state, tmp_path / "vae.safetensors")
        with open_vae(tmp_path / "vae.safetensors") as source:
            assert equal(source, vae_state)
            assert source.names_layout == layout


def ldm_spelling(state: State) -> State:
    recipes = {name: ldm_recipe(name) for name in state}
    return {
        recipe.sources[0]: state[name][:, :, None, None, None] if recipe.kind == "matrix" else state[name]
        for name, recipe in recipes.items()
    }


def test_vae_without_config_takes_the_released_ones_values(tmp_path: Path, vae_state: State) -> None:
    """The tiny VAE's widths are inferred, but 32 groups do not divide them: the error says so."""
    save_file(vae_state, tmp_path / "vae.safetensors")
    with pytest.raises(CheckpointError, match="norm_num_groups 32 does not divide 4"):
        open_vae(tmp_path / "vae.safetensors")


def test_text_encoders_from_both_trees(golden: Path) -> None:
    for opener, half in ((open_text_encoder, False), (open_text_encoder_2, True)):
        official, diffusers = opener(golden / "ckpts_official"), opener(golden / "ckpts_diffusers")
        assert official.names() == diffusers.names()
        for name in official.names():
            expected = official.read(name).half() if half else official.read(name)
            assert torch.equal(diffusers.read(name), expected), name
        assert official.config["hidden_size"] == diffusers.config["hidden_size"]
    assert "lm_head.weight" not in open_text_encoder(golden / "ckpts_official").names()


LLAMA_PREFIXES = {
    "model.": "lm_head.",
    "language_model.model.": "language_model.lm_head.",
    "model.language_model.": "lm_head.",
    "": None,
}


@pytest.mark.parametrize("prefix", LLAMA_PREFIXES)
def test_llama_inside_other_models(golden: Path, tmp_path: Path, prefix: str) -> None:
    plain = open_text_encoder(golden / "ckpts_official")
    expected = {name: plain.read(name) for name in plain.names()}
    state = {prefix + name: tensor for name, tensor in expected.items()}
    if head := LLAMA_PREFIXES[prefix]:
        state[f"{head}weight"] = torch.zeros(2, 2)
        state["vision_tower.vision_model.encoder.layers.0.self_attn.q_proj.weight"] = torch.zeros(2, 2)
        state["multi_modal_projector.linear_1.weight"] = torch.zeros(2, 2)
    state["tokenizer"] = torch.zeros(100, dtype=torch.uint8)
    save_file(state, tmp_path / "model.safetensors")
    config = json.loads((golden / "ckpts_official" / "text_encoder" / "config.json").read_text())
    llava = {"model_type": "llava", "text_config": config, "vision_config": {"hidden_size": 7}}
    (tmp_path / "config.json").write_text(json.dumps(llava))
    with open_text_encoder(tmp_path) as source:
        assert equal(source, expected)
        assert source.config == config


def test_clip_without_prefix(golden: Path, tmp_path: Path) -> None:
    plain = open_text_encoder_2(golden / "ckpts_official")
    expected = {name: plain.read(name) for name in plain.names()}
    ids = {"embeddings.position_ids": torch.arange(77)[None]}
    shutil.copy(golden / "ckpts_official" / "text_encoder_2" / "config.json", tmp_path)
    for prefix in ("", "text_model."):
        save_file({prefix + name: tensor for name, tensor in (expected | ids).items()}, tmp_path / "clip_l.safetensors")
        with open_text_encoder_2(tmp_path / "clip_l.safetensors") as source:
            assert equal(source, expected)


def test_reading_does_not_hold_the_file_in_memory(golden: Path, transformer_state: State) -> None:
    """Two reads are two memories: a caller may change one."""
    with open_transformer(golden / "ckpts_diffusers") as source:
        name = "double_blocks.0.img_attn_qkv.weight"
        source.read(name).zero_()
        assert torch.equal(source.read(name), transformer_state[name])
