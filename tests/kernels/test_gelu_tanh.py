"""GELU in its tanh form, and the gated residual, against fp64; in place and on views."""

from __future__ import annotations

import pytest
import torch

from hvlite.kernels import gated_residual, gelu_tanh, reference

UNITS = {torch.float32: 2**-21, torch.bfloat16: 2**-8, torch.float16: 2**-10}


def exact_gelu(x):
    wide = x.double()
    return wide * 0.5 * (1 + torch.tanh((2 / torch.pi) ** 0.5 * (wide + 0.044715 * wide**3)))


@pytest.mark.parametrize("dtype", list(UNITS))
@pytest.mark.parametrize("shape", [(1, 1), (3, 1000), (2, 3, 1025)])
def test_gelu_against_fp64(device, shape, dtype):
    torch.manual_seed(1)
    x = (torch.randn(shape, device=device) * 3).to(dtype)
    x.view(-1)[0] = 6e4
    found = gelu_tanh.gelu_tanh(x)
    torch.testing.assert_close(found.double(), exact_gelu(x), rtol=UNITS[dtype], atol=1e-6)
    assert found.dtype == dtype


def test_gelu_is_within_one_ulp_of_torch_in_bf16(device):
    """Over every bf16 value between -20 and 20."""
    bits = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16)
    x = bits.view(torch.bfloat16)
    x = x[x.abs() < 20].to(device).view(1, -1)
    found, wanted = gelu_tanh.gelu_tanh(x), reference.gelu_tanh(x)
    ulps = (found.view(torch.int16).int() - wanted.view(torch.int16).int()).abs()
    near_zero = wanted.abs() < 1e-5  # far left of zero torch's own fp32 tanh cancels
    assert int(ulps[~near_zero].max()) <= 1
    assert float((found - wanted)[near_zero].abs().max()) < 1e-6


def test_gelu_in_place_changes_its_channels_alone(device):
    both = torch.randn(2, 5, 300, device=device).to(torch.bfloat16)
    before = both.clone()
    gelu_tanh.gelu_tanh_(both[:, 1:4, 100:])
    assert torch.equal(both[:, 1:4, 100:], gelu_tanh.gelu_tanh(before[:, 1:4, 100:]))
    both[:, 1:4, 100:] = before[:, 1:4, 100:]
    assert torch.equal(both, before)


@pytest.mark.parametrize("dtype", list(UNITS))
@pytest.mark.parametrize("shape", [(1, 1, 1), (2, 7, 92), (1, 3, 1025)])
def test_gated_residual_against_fp64(device, shape, dtype):
    torch.manual_seed(2)
    x, branch = (torch.randn(shape, device=device).to(dtype) for _ in range(2))
    gate = (torch.randn(shape[0], 3, shape[2], device=device) * 3).to(dtype)[:, 1]  # a slice: rows lie apart
    wanted = x.double() + branch.double() * gate[:, None].double()
    gated_residual.gated_residual_(x, branch, gate)
    torch.testing.assert_close(x.double(), wanted, rtol=UNITS[dtype], atol=1e-6)


def test_gated_residual_of_a_chunk_leaves_its_neighbours(device):
    tokens, branch, gate = (
        torch.randn(2, 9, 40, device=device),
        torch.randn(2, 4, 40, device=device),
        torch.randn(2, 40, device=device),
    )
    wanted = tokens.clone()
    wanted[:, 3:7] += branch * gate[:, None]
    gated_residual.gated_residual_(tokens[:, 3:7], branch, gate)
    torch.testing.assert_close(tokens, wanted)
