"""What a step of the 13B model holds beside its weights when K and V are in 8 bits, by PyTorch's own accounting."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from hvlite.benchmarks.measure import AllocationTracker
from hvlite.kernels import ops, quantized_attention
from hvlite.kernels.attention_variant import INT8_FP8, INT8_FP16
from hvlite.lite.attention import EXACT, Attention
from hvlite.lite.models.blocks import Modulation, Rope
from hvlite.lite.models.chunked import Sequence, run_double, run_single
from hvlite.lite.models.linear import QuantLinear
from hvlite.lite.models.transformer import HunyuanVideoTransformer
from hvlite.quantize.architecture import TransformerConfig

CONFIG = TransformerConfig(mm_double_blocks_depth=1, mm_single_blocks_depth=1)
VIDEO, TEXT = 118_800, 256  # 720x1280, 129 frames
GIB = 1 << 30


@pytest.fixture(autouse=True)
def kernels_run(monkeypatch):
    """Fake tensors on the CPU stand for those on a card: torch without CUDA cannot slice fake CUDA tensors."""
    for module in (ops, quantized_attention):
        monkeypatch.setattr(module, "runs_kernels", lambda device: True)


def peak_bytes(attention: Attention, chunk: int) -> int:
    """Tokens, K, V and what a chunk needs, of a block of each kind with int8 weights, as a card runs them."""
    torch.set_default_dtype(torch.bfloat16)
    try:
        with FakeTensorMode(), torch.no_grad(), AllocationTracker() as memory:
            model = HunyuanVideoTransformer(CONFIG)
            for block in (*model.doubles, *model.singles):
                for name, layer in [(n, each) for n, each in block.named_modules() if isinstance(each, nn.Linear)]:
                    codes = torch.empty(layer.weight.shape, dtype=torch.int8)
                    scale = torch.empty(layer.out_features, dtype=torch.float32)
                    block.set_submodule(name, QuantLinear(codes, scale, layer.bias, "w8a8"))
            row = torch.empty(1, CONFIG.hidden_size)
            one = Modulation(row, row, row)
            angles = torch.empty(VIDEO, 64, dtype=torch.float32)
            before = memory.live_bytes
            memory.restart()
            made = Sequence.allocate(CONFIG, 1, VIDEO, TEXT, Rope(angles, angles), row, chunk, attention)
            run_double(model.doubles[0], made, ((one, one), (one, one)))
            run_single(model.singles[0], made, one)
            return memory.peak_bytes - before
    finally:
        torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize(("variant", "limit"), [(INT8_FP8, 1.75), (INT8_FP16, 2.1)], ids=["fp8", "fp16"])
def test_step_at_720p(variant, limit):
    found = peak_bytes(Attention("hvlite", variant, "a test"), 8192)
    assert found <= limit * GIB


def test_eight_bits_save_half_of_k_and_v():
    exact, eight = (peak_bytes(each, 8192) for each in (EXACT, Attention("hvlite", INT8_FP8, "a test")))
    assert exact - eight >= 0.9 * 2 * (VIDEO + TEXT) * CONFIG.hidden_size
