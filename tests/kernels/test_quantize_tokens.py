"""Codes and scales of tokens: bit for bit those of the reference, and with a GELU before them close to fp64."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from hvlite.kernels import quantize_tokens as kernel
from hvlite.kernels import reference

CODES = [torch.int8, torch.float8_e4m3fn]
SHAPES = [(1, 1), (7, 92), (13, 1000), (2, 3, 1500), (2, 4096)]


def tokens(device: torch.device, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Tokens of many sizes, one of zeros, one with a value 300 times the others, one below the normal numbers."""
    torch.manual_seed(3)
    x = torch.randn(shape, device=device).flatten(0, -2)
    x *= torch.logspace(-4, 3, len(x), device=device)[:, None]
    x[len(x) // 2, 0] *= 300
    x[len(x) // 3] = 0
    x[-1] *= 1e-43 if dtype == torch.float32 and len(x) > 5 else 1
    return x.view(shape).to(dtype)


def gelu(x: Tensor) -> Tensor:
    wide = x.double()
    return wide * 0.5 * (1 + torch.tanh((2 / torch.pi) ** 0.5 * (wide + 0.044715 * wide**3)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("codes", CODES)
@pytest.mark.parametrize("shape", SHAPES)
def test_bit_for_bit_the_reference(device, shape, codes, dtype):
    x = tokens(device, shape, dtype)
    found, found_scale = kernel.quantize_tokens(x, codes)
    wanted, wanted_scale = reference.quantize_tokens(x, codes)
    assert torch.equal(found_scale, wanted_scale)
    assert torch.equal(found.view(torch.uint8), wanted.view(torch.uint8))


def test_halves_go_to_even(device):
    x = torch.tensor([[127.0, 0.5, 1.5, 2.5, -0.5, -1.5, -126.5]], device=device)
    codes, scale = kernel.quantize_tokens(x, torch.int8)
    assert scale.tolist() == [1.0]
    assert codes.tolist() == [[127, 0, 2, 2, 0, -2, -126]]


@pytest.mark.parametrize("gelu_from", [0, 64, 1024, 1500])
@pytest.mark.parametrize("codes", CODES)
def test_gelu_of_the_last_channels(device, codes, gelu_from):
    """The range that goes through the GELU begins inside a block, on its edge, or is empty."""
    x = tokens(device, (9, 1500), torch.bfloat16)
    found, scale = kernel.quantize_tokens(x, codes, gelu_from)
    wanted = torch.cat([x[:, :gelu_from].double(), gelu(x[:, gelu_from:])], dim=-1)
    largest = reference.LARGEST_CODE[codes]
    wanted_scale = (wanted.abs().amax(dim=-1) / largest).float()
    torch.testing.assert_close(scale[scale != 1], wanted_scale[scale != 1], rtol=1e-5, atol=0)
    limit = 0.501 if codes == torch.int8 else 16.01  # half a step of the largest codes
    assert ((found.double() * scale[:, None] - wanted).abs() <= limit * scale[:, None]).all()


@pytest.mark.parametrize("codes", CODES)
def test_gelu_codes_are_those_of_the_reference(device, codes):
    x = tokens(device, (9, 1500), torch.bfloat16)
    found, scale = kernel.quantize_tokens(x, codes, 300)
    wanted, wanted_scale = reference.gelu_codes(x, codes, 300)
    torch.testing.assert_close(scale, wanted_scale, rtol=1e-5, atol=0)
    assert (found.float() != wanted.float()).float().mean() < 0.002


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("codes", CODES)
def test_codes_in_the_memory_of_their_values(device, codes, dtype):
    """Two samples' chunks of a larger buffer: each row is read before it is written, its neighbours stay."""
    buffer = tokens(device, (2, 9, 1500), dtype)
    before = buffer.clone()
    wanted, wanted_scale = kernel.quantize_tokens(before[:, 2:6], codes, 300)
    scale = kernel.gelu_codes_(buffer[:, 2:6], codes, 300)
    assert torch.equal(scale, wanted_scale)
    assert torch.equal(buffer[:, 2:6].view(torch.uint8)[..., :1500], wanted.view(torch.uint8))
    buffer[:, 2:6] = before[:, 2:6]
    assert torch.equal(buffer, before)


def test_channels_may_lie_apart(device):
    x = tokens(device, (40, 6), torch.bfloat16).t()
    found, scale = kernel.quantize_tokens(x, torch.int8)
    wanted, wanted_scale = reference.quantize_tokens(x, torch.int8)
    assert torch.equal(found, wanted)
    assert torch.equal(scale, wanted_scale)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_value_that_is_not_finite_is_not_lost(device, bad):
    x = torch.randn(3, 100, device=device)
    x[1, 7] = bad
    _, scale = kernel.quantize_tokens(x, torch.int8)
    assert scale.isfinite().tolist() == [True, False, True]


class DividesAsCuda(TorchDispatchMode):
    """A division by a number is a product with its reciprocal, as torch does it on CUDA."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function is torch.ops.aten.div.Tensor and not isinstance(args[1], Tensor):
            return args[0] * float(torch.tensor(1.0) / args[1])
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("codes", CODES)
def test_the_reference_is_the_same_on_a_card(codes):
    x = torch.randn(500, 40)
    wanted, wanted_scale = reference.quantize_tokens(x, codes)
    with DividesAsCuda():
        found, scale = reference.quantize_tokens(x, codes)
    assert torch.equal(scale, wanted_scale)
    assert torch.equal(found.view(torch.uint8), wanted.view(torch.uint8))
