"""Scales and codes, against torchao where it does the same, and by their defining properties where it does not."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from hvlite.kernels.ops import dequantize_rows
from hvlite.quantize.methods import amax_scale, encode_rows, from_groups, mse_scale, to_groups
from hvlite.quantize.scheme import SCHEMES, Scheme

FP8, INT8, INT4 = SCHEMES["fp8"], SCHEMES["int8"], SCHEMES["int4"]
SCALED = [FP8, INT8, INT4]


def weights(rows: int = 64, columns: int = 200, seed: int = 0) -> Tensor:
    """Rows of very different sizes, one outlier in every fourth."""
    generator = torch.Generator().manual_seed(seed)
    rows_scale = torch.logspace(-6, 3, rows)[:, None]
    weight = torch.randn(rows, columns, generator=generator) * rows_scale
    weight[::4, 3] *= 50
    return weight


def squared_error(weight: Tensor, scale: Tensor, scheme: Scheme) -> Tensor:
    decoded = dequantize_rows(encode_rows(weight, scale, scheme), scale, torch.float32)
    return (decoded - weight).square().sum(dim=1)


@pytest.fixture(scope="module")
def torchao() -> None:
    pytest.importorskip("torchao")


def test_fp8_equals_torchao(torchao: None) -> None:
    from torchao.quantization import PerRow
    from torchao.quantization.quantize_.workflows.float8.float8_tensor import Float8Tensor

    weight = weights()
    theirs = Float8Tensor.from_hp(weight, granularity=PerRow())
    scale = amax_scale(weight, FP8)
    assert torch.equal(theirs.scale.view(-1), scale)
    assert torch.equal(theirs.qdata.view(torch.uint8), encode_rows(weight, scale, FP8).view(torch.uint8))


def test_int8_codes_equal_torchao_at_the_same_scale(torchao: None) -> None:
    """torchao's own scale is amax / 127.5, which needs the code -128; ours keeps to -127..127."""
    from torchao.quantization import PerRow
    from torchao.quantization.quantize_.workflows.int8.int8_tensor import Int8Tensor

    weight = weights()
    scale = amax_scale(weight, INT8)
    theirs = Int8Tensor.from_hp(weight, granularity=PerRow(), scale=scale[:, None])
    different = theirs.qdata != encode_rows(weight, scale, INT8)
    assert int(different.sum()) <= 2  # it multiplies by the reciprocal, which moves values on a rounding boundary


@pytest.mark.parametrize("scheme", SCALED, ids=lambda scheme: scheme.name)
def test_the_largest_weight_gets_the_largest_code(scheme: Scheme) -> None:
    weight = weights()
    codes = encode_rows(weight, amax_scale(weight, scheme), scheme)
    assert torch.equal(codes.to(torch.float32).abs().amax(dim=1), torch.full((64,), scheme.largest))


@pytest.mark.parametrize("scheme", SCALED, ids=lambda scheme: scheme.name)
def test_int_rounding_error_is_at_most_half_a_step(scheme: Scheme) -> None:
    weight = weights()
    scale = amax_scale(weight, scheme)
    error = (dequantize_rows(encode_rows(weight, scale, scheme), scale, torch.float32) - weight).abs()
    if scheme is FP8:  # three bits of mantissa; below 2**-6 the steps are even
        limit = torch.maximum(weight.abs() / 16, scale[:, None] * 2**-10)
    else:
        limit = scale[:, None].expand_as(weight) / 2
    assert bool((error <= limit * (1 + 1e-5)).all())


@pytest.mark.parametrize("scheme", SCALED, ids=lambda scheme: scheme.name)
def test_rows_of_zeros_and_of_denormals_are_safe(scheme: Scheme) -> None:
    weight = torch.zeros(3, 16)
    weight[1] = 1e-42
    weight[2] = 1e38
    scale = amax_scale(weight, scheme)
    assert bool((torch.isfinite(scale) & (scale > 0)).all())
    assert scale[0] == 1
    decoded = dequantize_rows(encode_rows(weight, scale, scheme), scale, torch.float32)
    assert bool(torch.isfinite(decoded).all())
    assert torch.equal(decoded[0], weight[0])


@pytest.mark.parametrize("scheme", SCALED, ids=lambda scheme: scheme.name)
def test_a_searched_scale_is_never_worse(scheme: Scheme) -> None:
    weight = torch.randn(32, 8192, generator=torch.Generator().manual_seed(0))
    by_amax = squared_error(weight, amax_scale(weight, scheme), scheme)
    by_search = squared_error(weight, mse_scale(weight, scheme), scheme)
    assert bool((by_search <= by_amax).all())
    assert by_search.sum() < 0.99 * by_amax.sum()


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 9), st.integers(1, 200), st.integers(0, 2**31), st.sampled_from(SCALED))
def test_any_shape_decodes_close(rows: int, columns: int, seed: int, scheme: Scheme) -> None:
    weight = torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))
    scale = amax_scale(weight, scheme)
    codes = encode_rows(weight, scale, scheme)
    assert codes.shape == weight.shape
    error = dequantize_rows(codes, scale, torch.float32) - weight
    assert error.norm() <= {"fp8": 0.05, "int8": 0.02, "int4": 0.5}[scheme.name] * weight.norm()


@given(st.integers(1, 5), st.integers(1, 200))
@settings(max_examples=40, deadline=None)
def test_groups_go_there_and_back(rows: int, columns: int) -> None:
    weight = torch.arange(rows * columns, dtype=torch.float32).view(rows, columns)
    groups = to_groups(weight)
    assert groups.shape == (rows * -(-columns // 64), 64)
    assert torch.equal(from_groups(groups, columns), weight)
