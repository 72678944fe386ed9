"""LayerNorm with modulation, alone and with codes, against fp64."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from hvlite.kernels import modulated_norm as kernel
from hvlite.kernels import reference

SHAPES = [(1, 1, 3072), (2, 7, 64), (1, 19, 100), (1, 3, 1500), (3, 5, 1)]
EPS = 1e-6


def inputs(device: torch.device, shape: tuple[int, int, int], dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """Tokens with a mean of their own, a row of zeros and a huge one; shift and scale are slices of one vector."""
    torch.manual_seed(5)
    x = torch.randn(shape, device=device) * torch.logspace(-2, 2, shape[1], device=device)[:, None] + 3
    x[:, shape[1] // 2] = 0
    x[0, -1] *= 1e4 if dtype != torch.float16 else 10
    vector = torch.randn(shape[0], 2 * shape[2], device=device)
    shift, scale = vector.to(dtype).chunk(2, dim=-1)
    return x.to(dtype), shift, scale


def exact(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    wide = x.double()
    centred = wide - wide.mean(dim=-1, keepdim=True)
    normed = centred / (centred.square().mean(dim=-1, keepdim=True) + EPS).sqrt()
    return normed * (1 + scale[:, None].double()) + shift[:, None].double()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("shape", SHAPES)
def test_against_fp64(device, shape, dtype):
    x, shift, scale = inputs(device, shape, dtype)
    found, wanted = kernel.modulated_norm(x, shift, scale, EPS), exact(x, shift, scale)
    assert found.dtype == dtype
    unit = {torch.float32: 3e-6, torch.bfloat16: 2**-8, torch.float16: 2**-11}[dtype]
    torch.testing.assert_close(found.double(), wanted, rtol=unit, atol=5e-4 if dtype == torch.float32 else unit)


@pytest.mark.parametrize("codes", [torch.int8, torch.float8_e4m3fn])
@pytest.mark.parametrize("shape", SHAPES)
def test_codes_are_those_of_the_reference(device, shape, codes):
    """But where fp32 statistics, summed in another order, fall on the other side of a rounding edge."""
    x, shift, scale = inputs(device, shape, torch.bfloat16)
    found, found_scale = kernel.modulated_norm_codes(x, shift, scale, EPS, codes)
    wanted, wanted_scale = reference.modulated_norm_codes(x, shift, scale, EPS, codes)
    torch.testing.assert_close(found_scale, wanted_scale, rtol=1e-5, atol=0)
    assert (found.float() != wanted.float()).float().mean() < 0.005
    step = 1.0 if codes == torch.int8 else 32.0
    assert (found.float() - wanted.float()).abs().max() <= step
    decoded = found.double() * found_scale.double()[..., None]
    limit = 0.51 if codes == torch.int8 else 448 / 16
    assert ((decoded - exact(x, shift, scale)).abs() <= limit * found_scale[..., None].double() + 1e-4).all()


def test_views_of_a_larger_buffer(device):
    """A chunk of the tokens of two samples, which is not contiguous; its neighbours stay as they are."""
    x, shift, scale = inputs(device, (2, 40, 64), torch.bfloat16)
    chunk = x[:, 9:22]
    assert not chunk.is_contiguous()
    assert torch.equal(
        kernel.modulated_norm(chunk, shift, scale, EPS), kernel.modulated_norm(chunk.contiguous(), shift, scale, EPS)
    )


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_value_that_is_not_finite_is_not_lost(device, bad):
    x, shift, scale = inputs(device, (1, 4, 100), torch.bfloat16)
    x[0, 2, 99] = bad
    _, row_scale = kernel.modulated_norm_codes(x, shift, scale, EPS, torch.int8)
    assert row_scale.isfinite().tolist() == [[True, True, False, True]]
