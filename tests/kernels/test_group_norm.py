"""GroupNorm with SiLU in its two passes against fp64: whole maps, chunks of frames, large means."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from hvlite.kernels import group_norm as kernel
from hvlite.kernels import reference

SHAPES = [(1, 4, 1, 1, 1), (2, 6, 3, 5, 7), (1, 4, 2, 40, 60)]


def exact(x: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float) -> Tensor:
    normed = torch.nn.functional.group_norm(x.double(), groups, weight.double(), bias.double(), eps)
    return torch.nn.functional.silu(normed)


def through(x: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float) -> Tensor:
    """As `ops.group_norm_silu` runs the kernels on a card."""
    moments = kernel.group_moments(x, groups)
    return kernel.scale_shift_silu(x, *reference.scale_shift(*moments, weight, bias, eps))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("shape", SHAPES)
def test_against_fp64(device, shape, dtype):
    torch.manual_seed(1)
    x = (torch.randn(shape, device=device) * 3 + 1).to(dtype)
    weight, bias = torch.randn(2, shape[1], device=device).to(dtype)
    found = through(x, weight, bias, 2, 1e-6)
    assert found.dtype == dtype
    unit = 1e-5 if dtype == torch.float32 else 2**-10
    torch.testing.assert_close(found.double(), exact(x, weight, bias, 2, 1e-6), rtol=unit, atol=unit)


def test_many_pieces_of_a_channel_are_merged(device, monkeypatch):
    """More blocks than pieces, the last piece short; a mean a thousand times the spread does not cancel."""
    monkeypatch.setattr(kernel, "MAX_SPLITS", 3)
    torch.manual_seed(2)
    x = torch.randn(1, 2, 7 * 2048 + 5, device=device) + torch.tensor([1000.0, -3.0], device=device)[:, None]
    mean, variance = kernel.group_moments(x, 2)
    torch.testing.assert_close(mean.double(), x.double().mean(dim=2), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(variance.double(), x.double().var(dim=2, correction=0), rtol=1e-3, atol=0)


def test_a_chunk_of_frames(device):
    """Its channels lie apart; what is made of it is contiguous."""
    torch.manual_seed(3)
    x = torch.randn(2, 4, 6, 5, 7, device=device)
    chunk = x[:, :, 2:4]
    assert not chunk.is_contiguous()
    scale, shift = torch.randn(2, 2, 4, device=device)
    for found, wanted in (
        (kernel.group_moments(chunk, 2), reference.group_moments(chunk, 2)),
        (
            (kernel.scale_shift_silu(chunk, scale, shift),),
            (reference.scale_shift_silu(chunk, scale, shift),),
        ),
    ):
        for one, other in zip(found, wanted, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


def test_other_layouts_are_copied(device):
    x = torch.randn(2, 4, 3, 5, 7, device=device).to(memory_format=torch.channels_last_3d)
    for one, other in zip(kernel.group_moments(x, 2), reference.group_moments(x, 2), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)
