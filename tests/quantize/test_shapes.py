"""The architecture tables and key maps against the names and shapes of the released checkpoints."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from hvlite.quantize.architecture import TransformerConfig, VaeConfig
from hvlite.quantize.readers.infer import infer_transformer
from hvlite.quantize.readers.keymap import (
    TRANSFORMER_PREFIXES,
    comfyui_canonical,
    comfyui_recipe,
    diffusers_recipe,
    ldm_recipe,
    strip_prefixes,
)
from hvlite.quantize.readers.recognize import recognize_transformer
from hvlite.quantize.readers.shapes import (
    expected_clip_text_shapes,
    expected_llama_shapes,
    expected_transformer_shapes,
    expected_vae_shapes,
)

LLAMA = {
    "hidden_size": 4096,
    "intermediate_size": 14_336,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "vocab_size": 128_320,
    "num_hidden_layers": 32,
}
CLIP = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "vocab_size": 49_408,
    "max_position_embeddings": 77,
    "num_hidden_layers": 12,
}


def load(path: Path) -> dict[str, tuple[int, ...]]:
    tensors = json.loads(path.read_text())["tensors"]
    return {name: tuple(shape) for name, shape in tensors.items()}


def test_transformer_table_is_the_released_models(manifests: Path) -> None:
    released = load(manifests / "dit_t2v_official.json")
    assert expected_transformer_shapes(TransformerConfig()) == released
    assert len(released) == 856


def test_vae_table_is_the_released_models(manifests: Path) -> None:
    assert (
        expected_vae_shapes(VaeConfig())
        == load(manifests / "vae_official.json")
        == load(manifests / "vae_diffusers.json")
    )


def test_text_tables_are_the_released_models(manifests: Path) -> None:
    llama = load(manifests / "text_encoder_llama_official.json")
    assert expected_llama_shapes(LLAMA) == {
        name.removeprefix("model."): shape for name, shape in llama.items() if name != "lm_head.weight"
    }
    clip = {
        name.removeprefix("text_model."): shape
        for name, shape in load(manifests / "text_encoder_2_clip_full.json").items()
        if name.startswith("text_model.")
    }
    assert expected_clip_text_shapes(CLIP) == clip


@pytest.mark.parametrize("variant", ["cfgdistill", "I2V-16ch", "I2V-33ch"])
def test_diffusers_names_and_shapes(manifests: Path, variant: str) -> None:
    value = json.loads((manifests / f"dit_diffusers_{variant}.json").read_text())
    config = TransformerConfig(
        in_channels=value["config"]["in_channels"], guidance_embed=value["config"]["guidance_embeds"]
    )
    remaining = {name: tuple(shape) for name, shape in value["tensors"].items()}
    for name, shape in expected_transformer_shapes(config).items():
        recipe = diffusers_recipe(name)
        actual = [remaining.pop(source) for source in recipe.sources]
        assert actual == recipe.part_shapes(shape, config.hidden_size)
    assert not remaining


def test_key_map_file(manifests: Path) -> None:
    transforms = {"same": "same", "qkv": "rows", "qkvm": "rows", "swap_halves": "swap_halves"}
    entries: list[dict[str, Any]] = json.loads((manifests / "keymap_dit.json").read_text())
    for entry in entries:
        for leaf in ("weight", "bias"):
            name = entry["official"].replace("{i}", "7") + f".{leaf}"
            recipe = diffusers_recipe(name)
            modules = entry["diffusers"] if isinstance(entry["diffusers"], list) else [entry["diffusers"]]
            assert recipe.sources == tuple(module.replace("{i}", "7") + f".{leaf}" for module in modules)
            assert recipe.kind == transforms[entry["transform"]]
        comfyui = entry["comfy"].replace("{i}", "7").removesuffix("(.weight->.scale)")
        assert comfyui_recipe(entry["official"].replace("{i}", "7") + ".weight").sources == (f"{comfyui}.weight",)


def test_comfyui_names_stay_different(manifests: Path) -> None:
    names = load(manifests / "dit_t2v_official.json")
    assert len({comfyui_recipe(name).sources[0] for name in names}) == 856
    assert comfyui_canonical("single_blocks.3.norm.query_norm.scale") == "single_blocks.3.norm.query_norm.weight"


def test_ldm_names_and_shapes(manifests: Path) -> None:
    entries = json.loads((manifests / "keymap_vae_ldm.json").read_text())["map"]
    for name, shape in expected_vae_shapes(VaeConfig()).items():
        recipe, stored = ldm_recipe(name), entries[name]["ldm_shape"]
        assert recipe.sources == (entries[name]["ldm"],)
        assert stored == ([*shape, 1, 1, 1] if recipe.kind == "matrix" else list(shape))


def test_fp8_map_names_are_weights(manifests: Path) -> None:
    shapes = expected_transformer_shapes(TransformerConfig())
    modules = json.loads((manifests / "dit_fp8_map_keys.json").read_text())
    assert {f"{module}.weight" for module in modules} == {
        name
        for name, shape in shapes.items()
        if "_blocks." in name and len(shape) == 2 and not name.startswith("txt_in")
    }


@pytest.mark.parametrize("prefix", ["", *TRANSFORMER_PREFIXES, "module.model.diffusion_model.", "model.model.net."])
def test_prefixes_are_stripped_and_nothing_else(manifests: Path, prefix: str) -> None:
    for name in load(manifests / "dit_t2v_official.json"):
        assert strip_prefixes(prefix + name, TRANSFORMER_PREFIXES) == name


def test_released_shapes_give_the_released_config(manifests: Path) -> None:
    shapes = load(manifests / "dit_t2v_official.json")
    assert recognize_transformer(shapes, Path("x")) == "official"
    assert infer_transformer(shapes, shapes.get, [], Path("x")) == TransformerConfig()
