"""V's codes and scales: those of the reference, and the same in spans as at once."""

from __future__ import annotations

import pytest
import torch
from attention_cases import normal

from hvlite.kernels import attention_reference as reference
from hvlite.kernels import quantize_v as kernel
from hvlite.kernels import quantized_attention as ops
from hvlite.kernels.attention_variant import INT8_FP8, INT8_FP8_FP16, INT8_FP16
from hvlite.kernels.key_layout import KeyLayout
from hvlite.kernels.quantized_kv import QuantizedKV

VARIANTS = [INT8_FP16, INT8_FP8_FP16, INT8_FP8]
each_variant = pytest.mark.parametrize("variant", VARIANTS, ids=[each.name for each in VARIANTS])


def buffers(layout, variant, heads, dim, device):
    kv = QuantizedKV.allocate(variant, layout, 1, heads, dim, device)
    kv.v_mean.copy_(normal((1, heads, dim), device, torch.float32, 3) / 4)
    return kv


@each_variant
@pytest.mark.parametrize("tokens", [1, 64, 92, 150])
def test_codes(device, variant, tokens):
    layout = KeyLayout((tokens,))
    v = normal((1, tokens, 2, 64), device) * torch.logspace(-3, 3, 64, device=device).bfloat16()
    v[..., 9] = 0
    kv, wanted = buffers(layout, variant, 2, 64, device), buffers(layout, variant, 2, 64, device)
    kv.v_mean[..., 9] = wanted.v_mean[..., 9] = 0
    place = layout.place(0, tokens)
    scale = kernel.quantize_values_(kv.v, v, kv.v_mean, place, variant)
    wanted_scale = reference.quantize_values_(wanted.v, v, wanted.v_mean, place, variant)
    assert torch.equal(scale, wanted_scale)
    assert torch.equal(kv.v.float(), wanted.v.float())
    assert (scale[..., 9] == 1).all(), "nothing in it"
    largest = kv.v.float().abs().amax(3 if variant.is_transposed else 2)
    assert largest.max() <= variant.v_limit
    assert (scale.log2() % 1 == 0).all()


@each_variant
def test_spans_come_to_one_scale(device, variant):
    """The largest value is in the last span: the others are brought down; only what is tiny is rounded twice."""
    layout = KeyLayout((150, 30))
    v = normal((1, 180, 1, 64), device)
    v[:, 170] *= 100
    kv, whole = buffers(layout, variant, 1, 64, device), buffers(layout, variant, 1, 64, device)
    for start, end in ((0, 64), (64, 150), (150, 180)):
        place = layout.place(start, end)
        scale = kernel.quantize_values_(kv.v, v[:, start:end], kv.v_mean, place, variant)
        kv.span_scales.append((start, end, scale))
    final = torch.stack([scale for _, _, scale in kv.span_scales]).amax(0)
    for start, end, scale in kv.span_scales:
        kernel.align_values_(kv.v, scale / final, layout.place(start, end), end - start, variant)
    for start, end in ((0, 64), (64, 150), (150, 180)):
        ops.quantize_values_(whole, start, v[:, start:end])
    ops.align_values_(whole)
    assert torch.equal(final, whole.v_scale)
    assert torch.equal(kv.v.float(), whole.v.float())
    values = kv.v.float() if not variant.is_transposed else kv.v.float().transpose(2, 3)
    decoded = (values * final[:, :, None] + kv.v_mean[:, :, None])[:, :, layout.token_places()].transpose(1, 2)
    step = 2.0**-9 if variant.is_transposed else 2.0**-24
    relative = 2.0**-4 if variant.is_transposed else 2.0**-11
    exact = v.float() - kv.v_mean[:, None]
    assert ((decoded - v.float()).abs() <= relative * exact.abs() + 1.01 * step * final[:, None] + 1e-6).all()
