"""Recipes: the first pattern decides, only linear layers of the blocks are quantized, a slip of the pen is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from hvlite.errors import ConfigError
from hvlite.quantize.architecture import TransformerConfig
from hvlite.quantize.readers.shapes import expected_transformer_shapes
from hvlite.quantize.recipe import PARTS, Choice, builtin_recipes, load_recipe, make_recipe

FULL_SIZE = expected_transformer_shapes(TransformerConfig())


def recipe_file(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "recipe.toml"
    path.write_text(text)
    return path


@pytest.mark.parametrize("name", ["fp8", "int8", "fp8:mse", "int8:mse", "mixed"])
def test_the_blocks_linear_layers_are_quantized_and_nothing_else(name: str) -> None:
    recipe = builtin_recipes("transformer")[name]
    quantized = {weight for weight in FULL_SIZE if recipe.choose(weight).scheme.quantized}
    assert len(quantized) == 20 * 8 + 40 * 2
    kept = [weight for weight in FULL_SIZE if weight not in quantized]
    assert all(recipe.choose(weight) == Choice.parse("bf16") for weight in kept)
    assert all(len(FULL_SIZE[weight]) == 2 for weight in quantized)
    assert not any("mod" in weight for weight in quantized)
    # 9.06 billion weights to stream, as docs/quantization.md says
    assert sum(FULL_SIZE[weight][0] * FULL_SIZE[weight][1] for weight in quantized) == 9_059_696_640


def test_mixed_takes_int8_where_fp8_costs_most() -> None:
    recipe = builtin_recipes("transformer")["mixed"]
    schemes = {
        weight.split(".", 2)[2]: recipe.choose(weight).scheme.name for weight in FULL_SIZE if "blocks.7." in weight
    }
    int8 = {name for name, scheme in schemes.items() if scheme == "int8"}
    fp8 = {name for name, scheme in schemes.items() if scheme == "fp8"}
    streams = ("img", "txt")
    assert int8 == {f"{x}_attn_qkv.weight" for x in streams} | {"linear1.weight", "linear2.weight"}
    assert fp8 == {f"{x}_{y}.weight" for x in streams for y in ("attn_proj", "mlp.fc1", "mlp.fc2")}


def test_every_builtin_recipe_of_every_part_can_be_named() -> None:
    for part in PARTS:
        for name in builtin_recipes(part):
            assert make_recipe({part: name})[part].part == part


def test_a_file_comes_before_the_builtin_patterns(tmp_path: Path) -> None:
    text = '[transformer]\n"double_blocks.0.*" = "bf16"\n"single_blocks.*.linear2" = "int8:mse"\n'
    recipe = make_recipe({"transformer": "fp8"}, recipe_file(tmp_path, text))["transformer"]
    assert str(recipe.choose("double_blocks.0.img_mlp.fc1.weight")) == "bf16"
    assert str(recipe.choose("double_blocks.10.img_mlp.fc1.weight")) == "fp8"
    assert str(recipe.choose("single_blocks.7.linear2.weight")) == "int8:mse"
    assert str(recipe.choose("single_blocks.7.linear2.bias")) == "bf16"
    assert str(recipe.choose("single_blocks.7.modulation.linear.weight")) == "bf16"
    recipe.require_used(FULL_SIZE)


def test_a_quantized_wildcard_leaves_norms_and_modulation(tmp_path: Path) -> None:
    recipe = make_recipe({}, recipe_file(tmp_path, '[transformer]\n"double_blocks.0.*" = "int8"\n'))["transformer"]
    assert str(recipe.choose("double_blocks.0.img_attn_qkv.weight")) == "int8"
    assert str(recipe.choose("double_blocks.0.img_attn_q_norm.weight")) == "bf16"
    assert str(recipe.choose("double_blocks.0.img_mod.linear.weight")) == "bf16"


@pytest.mark.parametrize(
    "pattern",
    ['"double_block.*" = "fp8"', '"img_in*" = "fp8"', '"*_mod.linear" = "int8"', '"final_layer.linear" = "nf4"'],
)
def test_a_pattern_that_does_nothing_is_refused(tmp_path: Path, pattern: str) -> None:
    recipe = make_recipe({}, recipe_file(tmp_path, f"[transformer]\n{pattern}\n"))["transformer"]
    with pytest.raises(ConfigError, match=r"fits no module of the transformer") as caught:
        recipe.require_used(FULL_SIZE)
    assert caught.value.hint


@pytest.mark.parametrize(
    "text",
    [
        '[transformers]\n"*" = "fp8"',
        'transformer = "fp8"',
        '[transformer]\n"*" = "fp4"',
        '[transformer]\n"*" = "nf4:mse"',
        '[transformer]\n"*" = "fp8:max"',
        '[transformer]\n"*" = 8',
        "[transformer",
        '[transformer]\n"*" = "fp8"\n"*" = "int8"',
        "\x00",
    ],
)
def test_a_malformed_file_is_a_config_error(tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigError, match=r"recipe\.toml"):
        load_recipe(recipe_file(tmp_path, text))


def test_an_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(ConfigError, match="fp8, fp8:mse, int8, int8:mse, mixed, bf16"):
        make_recipe({"transformer": "fp4"})
