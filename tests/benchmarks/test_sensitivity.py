"""Shares and recipes of the sensitivity benchmark, on the tiny official checkpoint: they add up and leave no trace."""

from __future__ import annotations

import pytest
import torch

from hvlite.benchmarks.sensitivity import LayerShare, by_kind, candidates, quantized
from hvlite.quantize.recipe import Choice


def test_kinds_sum_over_blocks():
    shares = [
        LayerShare("single_blocks.0.linear1", 0.25, 0.9, 1),
        LayerShare("single_blocks.1.linear1", 0.5, 0.9, 1),
        LayerShare("double_blocks.0.img_mlp.fc1", 1.0, 0.9, 1),
    ]
    assert by_kind(shares) == {"double_blocks.img_mlp.fc1": 1.0, "single_blocks.linear1": 0.75}


def test_candidates_keep_the_worst_layers_higher():
    ranked = [f"single_blocks.{index}.linear1" for index in range(8)]
    recipes = dict(candidates("fp8", ranked))
    found = recipes["fp8, worst 2 in int8"]
    assert found.choose("single_blocks.1.linear1.weight").scheme.name == "int8"
    assert found.choose("single_blocks.2.linear1.weight").scheme.name == "fp8"
    assert (
        recipes["fp8, single_blocks.*.linear2 in bf16"].choose("single_blocks.0.linear2.weight").scheme.name == "bf16"
    )


@pytest.mark.parametrize("scheme", ["fp8", "int8", "fp8:mse"])
def test_a_layer_is_quantized_as_a_conversion_does_it(scheme):
    torch.manual_seed(0)
    layer = torch.nn.Linear(64, 48)
    x = torch.randn(5, 64)
    found = quantized(layer, Choice.parse(scheme), "dequantize")(x)
    assert 0 < (found - layer(x)).norm() / layer(x).norm() < 0.05
