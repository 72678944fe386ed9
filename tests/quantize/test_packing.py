"""Four-bit codes: int4 goes there and back, NF4 is bitsandbytes' own bytes."""

from __future__ import annotations

import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from hvlite.errors import CheckpointError
from hvlite.quantize.packing import (
    NF4_VALUES,
    decode_nf4,
    encode_nf4,
    nested_map,
    pack_int4,
    read_nf4_state,
    unpack_int4,
)
from hvlite.quantize.scheme import NF4_STATE

SHAPES = [(64, 64), (7, 13), (48, 100), (1024, 768), (3, 19205), (2, 64), (130, 255)]
DTYPES = [torch.float16, torch.bfloat16, torch.float32]


def weight_of(shape: tuple[int, int], dtype: torch.dtype) -> Tensor:
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(shape[1])) * 0.02
    if shape[0] > 10:
        weight[3] = 0  # whole blocks of zeros
        weight[5, 7] = 40.0
    return weight.to(dtype)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 7), st.integers(1, 70), st.integers(0, 2**31))
def test_int4_goes_there_and_back(rows: int, columns: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    codes = torch.randint(-7, 8, (rows, columns), dtype=torch.int8, generator=generator)
    packed = pack_int4(codes)
    assert packed.shape == (rows, (columns + 1) // 2)
    assert packed.dtype == torch.uint8
    assert torch.equal(unpack_int4(packed, columns), codes)


@pytest.fixture(scope="module")
def bitsandbytes() -> None:
    pytest.importorskip("bitsandbytes")


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_nf4_equals_bitsandbytes_bit_by_bit(bitsandbytes: None, shape: tuple[int, int], dtype: torch.dtype) -> None:
    from bitsandbytes.functional import dequantize_4bit, quantize_4bit

    weight = weight_of(shape, dtype)
    packed, state = quantize_4bit(weight, quant_type="nf4", compress_statistics=True)
    theirs = {"": packed, **{f".{key}": value for key, value in state.as_dict(packed=True).items()}}
    ours = encode_nf4(weight)
    assert ours.keys() == theirs.keys()
    for key, tensor in theirs.items():
        assert ours[key].dtype == tensor.dtype, key
        assert torch.equal(ours[key], tensor), key
    if weight.numel() % 64 == 0:  # other sizes make bitsandbytes compile a function, for seconds
        assert torch.equal(decode_nf4(ours, dtype), dequantize_4bit(packed, state))


def test_every_fp16_value_gets_bitsandbytes_code(bitsandbytes: None) -> None:
    """All finite fp16 numbers as weights, each block holding one 1.0: every rounding boundary is crossed."""
    from bitsandbytes.functional import quantize_4bit

    bits = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16)
    values = bits.view(torch.float16)
    values = values[torch.isfinite(values) & (values.abs() <= 1)]
    rows = torch.nn.functional.pad(values, (0, -values.numel() % 63)).view(-1, 63)
    weight = torch.cat([torch.ones(rows.shape[0], 1, dtype=torch.float16), rows], dim=1)
    packed, _ = quantize_4bit(weight, quant_type="nf4")
    assert torch.equal(encode_nf4(weight)[""], packed)


def test_nf4_picks_the_nearest_value() -> None:
    weight = torch.linspace(-1, 1, 64).repeat(8, 1)
    decoded = decode_nf4(encode_nf4(weight))
    table = torch.tensor(NF4_VALUES)
    nearest = table[(weight[0][:, None] - table).abs().argmin(dim=1)]
    assert torch.allclose(decoded[0], nearest, atol=2e-3)  # the block's absmax is itself rounded


def test_the_nested_map_is_sorted_and_covers_minus_one_to_one() -> None:
    values = nested_map()
    assert values.shape == (256,)
    assert bool((values[1:] > values[:-1]).all())
    assert values[-1] == 1
    assert 0 in values


@pytest.mark.parametrize(
    "change",
    [
        {"quant_type": "fp4"},
        {"blocksize": 128},
        {"shape": [4]},
        {"shape": [0, 4]},
        {"shape": "abc"},
        {"dtype": "object"},
        {"nested_offset": "x"},
        {"nested_offset": 1e31},
        {"nested_blocksize": 64},
    ],
    ids=str,
)
def test_a_malformed_state_is_refused(change: dict[str, object]) -> None:
    state = json.loads(bytes(encode_nf4(torch.randn(8, 8))[f".{NF4_STATE}"].tolist()))
    stored = torch.tensor(list(json.dumps({**state, **change}).encode()), dtype=torch.uint8)
    with pytest.raises(CheckpointError):
        read_nf4_state(stored)


@pytest.mark.parametrize("text", [b"", b"{", b"[]", b"\xff\xfe", b"[" * 5000, b'{"shape": [1, 2]}'])
def test_garbage_for_a_state_is_refused(text: bytes) -> None:
    with pytest.raises(CheckpointError):
        read_nf4_state(torch.tensor(list(text), dtype=torch.uint8))
