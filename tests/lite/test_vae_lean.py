"""The decode in chunks of time gives the pixels of the whole decode, in a fraction of its memory."""

from __future__ import annotations

import pytest
import torch

from hvlite import load_vae
from hvlite.lite.models.vae import AutoencoderKLCausal3D, CausalConv3d
from hvlite.lite.models.vae_lean import HeldMap, convolved, decode_lean, held, normed


@pytest.fixture(scope="module")
def vae(golden) -> AutoencoderKLCausal3D:
    return load_vae(golden / "ckpts_official")


@pytest.mark.parametrize("chunk_bytes", [1, 3_000, 20_000, 1 << 30])
@pytest.mark.parametrize("shape", [(1, 16, 1, 3, 4), (1, 16, 4, 3, 2), (2, 16, 5, 2, 3)])
@torch.no_grad()
def test_equal_to_the_whole_decode(vae, compare, shape, chunk_bytes):
    latents = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    lean = decode_lean(vae, latents, chunk_bytes)
    compare(f"VAE decode in time chunks against whole, {list(shape)}", lean, vae.decode(latents), 5e-5)


@pytest.mark.parametrize("lengths", [(5,), (1, 1, 1, 1, 1), (2, 3), (4, 1)])
@pytest.mark.parametrize("kernel", [1, 3])
@torch.no_grad()
def test_a_convolution_carries_its_context(lengths, kernel):
    torch.manual_seed(2)
    conv, x = CausalConv3d(4, 6, kernel=kernel), torch.randn(1, 4, 5, 3, 4)
    chunks = list(convolved(conv, HeldMap(x, lengths).chunks()))
    assert tuple(chunk.shape[2] for chunk in chunks) == lengths
    torch.testing.assert_close(torch.cat(chunks, dim=2), conv(x))


@pytest.mark.parametrize("offset", [0.0, 1000.0])
@torch.no_grad()
def test_norm_statistics_span_all_frames(offset):
    """Also where the mean is large against the spread: the merge must not cancel."""
    torch.manual_seed(3)
    norm, x = torch.nn.GroupNorm(2, 6, eps=1e-6), torch.randn(2, 6, 7, 3, 3) + offset
    x[:, :, 3:] *= 3
    torch.nn.init.normal_(norm.weight)
    torch.nn.init.normal_(norm.bias)
    ours = torch.cat(list(normed(norm, HeldMap(x, (2, 1, 4)))), dim=2)
    torch.testing.assert_close(ours, torch.nn.functional.silu(norm(x)), rtol=1e-4, atol=1e-3 if offset else 1e-5)


def test_chunks_hold_at_most_the_bytes_asked_for():
    x = torch.zeros(1, 2, 10, 4, 4)
    frame = 2 * 16 * 4
    assert held(x, 3 * frame).lengths == (3, 3, 3, 1)
    assert held(x, 1).lengths == (1,) * 10
    assert held(x, 100 * frame).lengths == (10,)
