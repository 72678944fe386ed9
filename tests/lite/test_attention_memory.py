"""What blocks of the 13B model hold beside their weights when K and V are in 8 bits, by PyTorch's own accounting."""

from __future__ import annotations

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from hvlite.benchmarks.activation_peaks import blocks_peak, build_transformer
from hvlite.benchmarks.cases import FEW_BLOCKS, LARGEST
from hvlite.benchmarks.fake_card import kernels_on_fakes
from hvlite.kernels.attention_variant import INT8_FP8, INT8_FP16
from hvlite.lite.attention import EXACT, Attention
from hvlite.lite.models.transformer import HunyuanVideoTransformer

GIB = 1 << 30


FAKE = FakeTensorMode()


@pytest.fixture(scope="module")
def model() -> HunyuanVideoTransformer:
    """A block of each kind with int8 weights, multiplied as codes."""
    with FAKE:
        return build_transformer(FEW_BLOCKS, torch.bfloat16, torch.int8, "w8a8")


def peak_bytes(model: HunyuanVideoTransformer, attention: Attention, chunk: int) -> int:
    with FAKE, kernels_on_fakes():
        return blocks_peak(model, LARGEST, chunk, attention).nbytes


@pytest.mark.parametrize(("variant", "limit"), [(INT8_FP8, 1.75), (INT8_FP16, 2.1)], ids=["fp8", "fp16"])
def test_blocks_at_720p(model, variant, limit):
    found = peak_bytes(model, Attention("hvlite", variant, "a test"), 8192)
    assert found <= limit * GIB


def test_eight_bits_save_half_of_k_and_v(model):
    exact, eight = (peak_bytes(model, each, 8192) for each in (EXACT, Attention("hvlite", INT8_FP8, "a test")))
    assert exact - eight >= 0.9 * 2 * LARGEST.tokens * FEW_BLOCKS.hidden_size
