"""The attention kernel, each variant, against attention in fp64; what it never may do on awkward input."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import triton.language as tl
from attention_cases import check, exact, normal
from triton.runtime.interpreter import InterpreterBuilder

from hvlite.errors import ConfigError
from hvlite.kernels import joint_attention as kernel
from hvlite.kernels import qk_norm_rope, quantize_v, quantized_attention
from hvlite.kernels.attention_variant import INT8_FP8, INT8_FP8_FP16, INT8_FP16, VARIANTS
from hvlite.kernels.key_layout import KeyBlocks, KeyLayout
from hvlite.kernels.quantized_kv import QuantizedKV

EIGHT_BIT = [INT8_FP16, INT8_FP8_FP16, INT8_FP8]
names = [each.name for each in EIGHT_BIT]
each_variant = pytest.mark.parametrize("variant", EIGHT_BIT, ids=names)


def attend(q, k, v, variant, segments=None, blocks=None):
    """The whole 8-bit way through the kernels: means of a sample, codes, attention."""
    batch, tokens, heads, dim = k.shape
    layout = KeyLayout(segments or (tokens,))
    kv = QuantizedKV.allocate(variant, layout, batch, heads, dim, k.device)
    rows = quantized_attention.sample_rows(tokens, k.device)
    quantized_attention.set_means_(kv, k[:, rows], v[:, rows])
    start, scales = 0, []
    for count in layout.segments:
        place = layout.place(start, start + count)
        span = slice(start, start + count)
        qk_norm_rope.quantize_keys_(kv.k, kv.k_scale, k[:, span], None, None, 1e-6, kv.k_shift, place)
        scales.append((place, count, quantize_v.quantize_values_(kv.v, v[:, span], kv.v_mean, place, variant)))
        start += count
    kv.v_scale.copy_(torch.stack([scale for _, _, scale in scales]).amax(0))
    for place, count, scale in scales:
        quantize_v.align_values_(kv.v, scale / kv.v_scale, place, count, variant)
    codes, scale = qk_norm_rope.quantize_queries(q, None, None, 1e-6, dim**-0.5 * quantized_attention.LOG2_E)
    buffers = (kv.k, kv.k_scale, kv.v, kv.v_scale, kv.v_mean)
    return kernel.attend(codes, scale, *buffers, layout, variant, q.dtype, blocks)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize(
    ("queries", "keys", "heads", "dim"), [(1, 1, 1, 64), (7, 92, 2, 64), (130, 128, 1, 128), (3, 150, 1, 128)]
)
def test_sixteen_bit(device, queries, keys, heads, dim, dtype):
    q = normal((2, queries, heads, dim), device, dtype)
    k, v = (normal((2, keys, heads, dim), device, dtype, seed) for seed in (1, 2))
    check(kernel.joint_attention(q, k, v), exact(q, k, v), VARIANTS["16-bit"])


def test_sixteen_bit_of_slices(device):
    """Q, K and V as they come out of one linear layer, and a chunk of Q: nothing is contiguous."""
    qkv = normal((1, 100, 3, 2, 64), device)
    q, k, v = qkv.unbind(2)
    q = q[:, 20:90]
    assert not k.is_contiguous()
    check(kernel.joint_attention(q, k, v), exact(q, k, v), VARIANTS["16-bit"])


@each_variant
@pytest.mark.parametrize(
    ("queries", "keys", "heads", "dim"), [(1, 1, 1, 64), (7, 92, 2, 64), (64, 64, 1, 128), (129, 130, 1, 128)]
)
def test_eight_bit(device, variant, queries, keys, heads, dim):
    q = normal((2, queries, heads, dim), device)
    k, v = (normal((2, keys, heads, dim), device, seed=seed) for seed in (1, 2))
    check(attend(q, k, v, variant), exact(q, k, v), variant)


@each_variant
@pytest.mark.parametrize("segments", [(80, 20), (64, 36), (64, 64), (3, 70)])
def test_video_and_text_in_one_sequence(device, variant, segments):
    """Both, one or none of them fill their last block."""
    q = normal((1, 40, 1, 64), device)
    k, v = (normal((1, sum(segments), 1, 64), device, seed=seed) for seed in (1, 2))
    check(attend(q, k, v, variant, segments), exact(q, k, v), variant)


@each_variant
def test_channel_bias_of_k(device, variant):
    """Without the shift this costs three times the error."""
    q, k, v = (normal((1, 200, 1, 128), device, seed=seed) for seed in (0, 1, 2))
    k = k + 8 * (normal((128,), device, seed=3) > 1).to(k.dtype)
    check(attend(q, k, v, variant), exact(q, k, v), variant)


@each_variant
def test_outliers_of_v(device, variant):
    """One value of V that no sample has seen, and one channel a thousand times the others: nothing overflows."""
    q, k, v = (normal((1, 300, 1, 64), device, seed=seed) for seed in (0, 1, 2))
    v[:, :, :, 5] *= 1000
    v[:, 299, :, 7] = 30000
    found, wanted = attend(q, k, v, variant), exact(q, k, v)
    for channels in ([5], [7], [each for each in range(64) if each not in (5, 7)]):
        error = (found[..., channels].double() - wanted[..., channels]).abs().sum() / wanted[..., channels].abs().sum()
        assert error < 0.1


@each_variant
def test_the_largest_sums_stay_finite(device, variant):
    """All of V at its limit and all of P at its largest: the 128 keys of a round in fp16 are at the edge."""
    q = torch.zeros(1, 3, 1, 64, dtype=torch.bfloat16, device=device)
    k = torch.zeros(1, 256, 1, 64, dtype=torch.bfloat16, device=device)
    v = torch.full((1, 256, 1, 64), 2.0**14, dtype=torch.bfloat16, device=device)
    v[:, :128] = -(2.0**14)  # a mean of zero, so that nothing is taken off
    step = 2.0**14 / (16 if variant.is_transposed else 100)  # V has two values, and e4m3 may be half a step off in each
    torch.testing.assert_close(attend(q, k, v, variant).double(), exact(q, k, v).expand(1, 3, 1, 64), rtol=0, atol=step)


@each_variant
def test_zeros(device, variant):
    """No 0 / 0 in a scale."""
    zeros = torch.zeros(1, 70, 1, 64, dtype=torch.bfloat16, device=device)
    assert torch.equal(attend(zeros, zeros, zeros, variant), zeros)


@each_variant
def test_huge_logits(device, variant):
    q, k = (1000 * normal((1, 70, 1, 64), device, seed=seed) for seed in (0, 1))
    v = normal((1, 70, 1, 64), device, seed=2)
    found = attend(q, k, v, variant)
    assert found.isfinite().all()
    assert (found - exact(q, k, v)).abs().max() < v.abs().max() * 2


@each_variant
@pytest.mark.parametrize("place", ["q", "k", "v"])
def test_what_is_not_finite_is_not_lost(device, variant, place):
    tensors = {name: normal((1, 70, 1, 64), device, seed=seed) for seed, name in enumerate("qkv")}
    tensors[place][0, 66, 0, 3] = float("nan")
    assert not attend(*tensors.values(), variant).isfinite().all()


@each_variant
def test_lists_of_key_blocks(device, variant):
    """Any blocks in any order, those behind the full ones too; a block of queries without keys gives zeros."""
    segments = (150, 70)
    layout = KeyLayout(segments)
    q = normal((1, 300, 2, 64), device)
    k, v = (normal((1, 220, 2, 64), device, seed=seed) for seed in (1, 2))
    mask = torch.tensor(
        [[[[1, 0, 1, 1, 0], [0, 0, 0, 0, 1], [0, 0, 0, 0, 0]], [[1, 1, 1, 1, 1], [0, 1, 0, 1, 1], [0, 0, 1, 0, 0]]]],
        dtype=torch.bool,
        device=device,
    )
    found = attend(q, k, v, variant, segments, KeyBlocks.from_mask(mask, layout, 128))
    of_key = torch.tensor(layout.token_places(), device=device) // 64
    by_key = mask[..., of_key].repeat_interleave(128, dim=2)[:, :, :300]
    assert (found[:, 256:, 0] == 0).all()
    some = by_key.any(-1).transpose(1, 2)
    wanted = exact(q, k, v, by_key | ~by_key.any(-1, keepdim=True))
    check(found[some], wanted[some], variant)


def test_a_long_sum_in_fp8_is_not_left_to_the_tensor_cores(device, monkeypatch):
    """16,384 keys that all add: cards keep 13 bits of an fp8 sum and cut off the rest, .4 % in the end.

    V is zero where its mean is taken from and one elsewhere, so that the sums only grow.
    """
    if device.type != "cuda":
        monkeypatch.setattr(InterpreterBuilder, "create_dot", sums_of_13_bits(InterpreterBuilder.create_dot))
    q, k = (normal((1, count, 1, 64), device) / 3 for count in (1, 16384))
    v = torch.ones_like(k)
    v[:, quantized_attention.sample_rows(16384, device)] = 0
    found, wanted = attend(q, k, v, INT8_FP8), exact(q, k, v)
    assert ((found.double() - wanted).abs() <= 0.001 * wanted).all()


def sums_of_13_bits(dot):
    """A product of the interpreter whose fp8 sums are cut off as a card's."""

    def cut(builder, a, b, d, *precision):
        made = dot(builder, a, b, d, *precision)
        if a.dtype.scalar == tl.float8e4nv and d.dtype.scalar == tl.float32:
            made.data = (made.data.view(np.int32) & ~((1 << 10) - 1)).view(np.float32)
        return made

    return cut


def test_heads_it_is_not_compiled_for(device):
    x = normal((1, 5, 1, 96), device)
    with pytest.raises(ConfigError, match="heads of 96; our attention kernel takes 64 and 128"):
        kernel.joint_attention(x, x, x)


def test_lists_for_another_block_of_queries(device):
    x = normal((1, 64, 1, 64), device)
    blocks = KeyBlocks.from_mask(torch.ones(1, 1, 1, 1, dtype=torch.bool, device=device), KeyLayout((64,)), 64)
    with pytest.raises(ConfigError, match="lists for 64 rows"):
        attend(x, x, x, INT8_FP16, blocks=blocks)


@each_variant
def test_the_reference_is_the_kernel(device, variant):
    """The CPU path and the kernel differ by the order of sums and by P's rounding, not by more."""
    q, k, v = (normal((1, 150, 1, 64), device, seed=seed) for seed in (0, 1, 2))
    found = attend(q, k, v, variant)
    wanted = quantized_attention.joint_attention(q.cpu(), k.cpu(), v.cpu(), variant).to(device)
    error = (found.double() - wanted.double()).abs().sum() / wanted.double().abs().sum()
    assert error < (0.03 if variant.is_transposed else 0.005)
