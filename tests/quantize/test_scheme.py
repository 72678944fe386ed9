"""Schemes: the tensors a weight becomes are the ones the encoders make, and their sizes are exact."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from hvlite.quantize.encode import encode
from hvlite.quantize.recipe import Choice
from hvlite.quantize.scheme import NF4_STATE, NF4_STATE_BYTES, SCHEMES
from hvlite.quantize.writer import tensor_info

SHAPES = [(1, 1), (7, 13), (48, 100), (64, 64), (5, 1000)]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("name", SCHEMES)
def test_encoded_tensors_are_what_the_scheme_says(name: str, shape: tuple[int, int]) -> None:
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(1)) + 0.1
    encoded = encode("layer.weight", weight, Choice(SCHEMES[name]), Path("x"))
    expected = SCHEMES[name].tensors("layer.weight", shape)
    found = {key: tensor_info(tensor) for key, tensor in encoded.tensors.items()}
    state = f"layer.weight.{NF4_STATE}"
    if state in found:
        assert found.pop(state).nbytes <= expected.pop(state).nbytes == NF4_STATE_BYTES
    assert found == expected


def test_bits_per_weight() -> None:
    """At the model's own width: what the documentation says about sizes."""
    shape = (9216, 3072)
    bits = {
        name: 8 * sum(info.nbytes for info in scheme.tensors("w", shape).values()) / (shape[0] * shape[1])
        for name, scheme in SCHEMES.items()
    }
    assert bits["fp8"] == bits["int8"] == pytest.approx(8.01, abs=0.005)
    assert bits["nf4"] == pytest.approx(4.127, abs=0.005)
    assert bits["int4"] == pytest.approx(4.5, abs=0.005)
    assert (bits["bf16"], bits["fp16"], bits["fp32"]) == (16, 16, 32)
