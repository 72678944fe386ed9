"""Attention's operations as PyTorch sees them: schemas and fakes that tell the truth."""

from __future__ import annotations

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from hvlite.benchmarks.fake_card import kernels_on_fakes
from hvlite.kernels import attention_library as library
from hvlite.kernels import ops, quantized_attention
from hvlite.kernels.attention_variant import INT8_FP8, INT8_FP16
from hvlite.kernels.key_layout import KeyLayout
from hvlite.kernels.quantized_kv import QuantizedKV


def cases():
    x, weight = torch.randn(1, 70, 2, 64), torch.randn(64)
    cos, sin = torch.randn(70, 32), torch.randn(70, 32)
    yield library.joint_attention, (x, x, x)
    yield library.qk_norm_rope, (x, weight, cos, sin, 1e-6)
    yield library.quantize_queries, (x, None, cos, sin, 1e-6, 0.5)
    for variant in (INT8_FP16, INT8_FP8):
        kv = QuantizedKV.allocate(variant, KeyLayout((70,)), 1, 2, 64, x.device)
        quantized_attention.set_means_(kv, x, x)
        quantized_attention.quantize_keys_(kv, 0, x)
        quantized_attention.quantize_values_(kv, 0, x)
        quantized_attention.align_values_(kv)
        codes, scale = quantized_attention.quantize_queries(x)
        yield library.quantize_keys_, (kv.k, kv.k_scale, x, weight, cos, sin, 1e-6, kv.k_shift, 0, 1)
        yield library.quantize_values_, (kv.v, x, kv.v_mean, 0, 1, variant.name)
        yield library.align_values_, (kv.v, kv.v_scale, 0, 1, 70, variant.name)
        buffers = (codes, scale, kv.k, kv.k_scale, kv.v, kv.v_scale, kv.v_mean)
        yield library.attend, (*buffers, [70], variant.name, torch.float32, None, None, 0)


@pytest.mark.parametrize("case", list(cases()), ids=lambda case: case[0]._name)
def test_schema_and_fake(case):
    operation, inputs = case
    narrow = any(isinstance(each, torch.Tensor) and each.dtype == torch.float8_e4m3fn for each in inputs)
    tests = ("test_faketensor",) if narrow else ("test_schema", "test_faketensor")  # torch's own cannot compare fp8
    torch.library.opcheck(operation, inputs, test_utils=tests)


def test_fakes_of_the_whole_way():
    with FakeTensorMode(), kernels_on_fakes():
        q = torch.empty(1, 70, 2, 128, dtype=torch.bfloat16)
        k = torch.empty(1, 300, 2, 128, dtype=torch.bfloat16)
        for variant in (None, INT8_FP16, INT8_FP8):
            out = ops.joint_attention(q, k, k, variant)
            assert (out.shape, out.dtype, out.device.type) == (q.shape, q.dtype, "cpu")
        assert ops.qk_norm_rope(q, None, None).shape == q.shape
