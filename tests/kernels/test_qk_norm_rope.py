"""RMSNorm, rotation and int8 codes in one pass: those of the operations one by one."""

from __future__ import annotations

import pytest
import torch
from attention_cases import normal

from hvlite.kernels import attention_reference as reference
from hvlite.kernels import qk_norm_rope as kernel
from hvlite.kernels.key_layout import KeyLayout

EPS = 1e-6
CASES = [(1, 64, 1, 128), (2, 7, 3, 64), (1, 92, 2, 64), (1, 1, 1, 64)]


def table(tokens, dim, device):
    angle = normal((tokens, dim // 2), device, torch.float32, 9)
    return angle.cos(), angle.sin()


def inputs(shape, device, dtype):
    """A slice of a fused projection, a row of zeros and a huge one in it."""
    batch, tokens, heads, dim = shape
    x = normal((batch, tokens, 3, heads, dim), device, dtype)[:, :, 1]
    x[:, tokens // 2] = 0
    x[0, -1] *= 1000
    return x, 1 + normal((dim,), device, dtype, 4) / 4, table(tokens, dim, device)


@pytest.mark.parametrize("parts", ["norm and rope", "norm", "rope"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_without_codes(device, dtype, parts):
    x, weight, rope = inputs((2, 67, 2, 64), device, dtype)
    weight, rope = weight if "norm" in parts else None, rope if "rope" in parts else None
    found, wanted = kernel.qk_norm_rope(x, weight, rope, EPS), reference.qk_norm_rope(x, weight, rope, EPS)
    unit = {torch.float32: 2e-6, torch.bfloat16: 2**-7, torch.float16: 2**-10}[dtype]
    torch.testing.assert_close(found, wanted, rtol=unit, atol=unit * 4)
    assert (found != wanted).float().mean() < (1 if dtype is torch.float32 else 0.01)


def same_codes(found, wanted):
    """But where fp32 sums in another order fall on the other side of a rounding edge."""
    assert (found.int() - wanted.int()).abs().max() <= 1
    assert (found != wanted).float().mean() < 0.02


@pytest.mark.parametrize("shape", CASES)
def test_codes_of_q(device, shape):
    x, weight, rope = inputs(shape, device, torch.bfloat16)
    found, scale = kernel.quantize_queries(x, weight, rope, EPS, 0.25)
    wanted, wanted_scale = reference.quantize_queries(x, weight, rope, EPS, 0.25)
    same_codes(found, wanted)
    torch.testing.assert_close(scale, wanted_scale, rtol=0.01, atol=0)


@pytest.mark.parametrize("shape", CASES)
def test_codes_of_k(device, shape):
    """Into the middle of a buffer: its own blocks to the last key, and nothing beside them."""
    batch, tokens, heads, dim = shape
    x, weight, rope = inputs(shape, device, torch.bfloat16)
    shift = normal((batch, heads, dim), device, torch.float32, 5)
    layout = KeyLayout((70, tokens))
    place = layout.place(70, 70 + tokens)
    found, wanted = (torch.full((batch, heads, layout.keys, dim), -128, dtype=torch.int8, device=device) for _ in "ab")
    scale, wanted_scale = (torch.full((batch, heads, layout.blocks), 7.0, device=device) for _ in "ab")
    kernel.quantize_keys_(found, scale, x, weight, rope, EPS, shift, place)
    reference.quantize_keys_(wanted, wanted_scale, x, weight, rope, EPS, shift, place)
    same_codes(found, wanted)
    torch.testing.assert_close(scale, wanted_scale, rtol=0.01, atol=0)
    assert (found[:, :, :64] == -128).all(), "the first segment's block"
    assert int((found == -128).all(-1).all(1).all(0).sum()) == layout.keys - 64 * -(-tokens // 64)
