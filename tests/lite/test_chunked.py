"""The two-pass schedule over token chunks computes what the whole block computes, for any chunk."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hvlite.kernels.reference import quantize_tokens
from hvlite.lite.models.blocks import DoubleStreamBlock, SingleStreamBlock
from hvlite.lite.models.chunked import Sequence, run_double, run_single, token_spans
from hvlite.lite.models.linear import QuantLinear
from hvlite.lite.models.transformer import HunyuanVideoTransformer
from hvlite.quantize.architecture import TransformerConfig

CONFIG = TransformerConfig(
    hidden_size=32,
    heads_num=2,
    mm_double_blocks_depth=1,
    mm_single_blocks_depth=1,
    rope_dim_list=(4, 6, 6),
    text_states_dim=8,
    text_states_dim_2=8,
)
GRID, TEXT = (3, 4, 5), 7
VIDEO = 60
CHUNKS = (1, 7, 16, 59, 60, 64, 1000)


@pytest.fixture(scope="module")
def model() -> HunyuanVideoTransformer:
    torch.manual_seed(3)
    model = HunyuanVideoTransformer(CONFIG).eval()
    for block in (*model.double_blocks, *model.single_blocks):
        for parameter in block.parameters():
            torch.nn.init.normal_(parameter, std=0.2)
    return model


def sequence(model: HunyuanVideoTransformer, chunk: int, tokens: torch.Tensor) -> Sequence:
    rope = model.rope(GRID, torch.device("cpu"))
    made = Sequence.allocate(CONFIG, tokens.shape[0], VIDEO, TEXT, rope, tokens, chunk)
    for buffer in (made.k, made.v):  # an element that is read before it is written must show
        buffer.fill_(torch.nan)
    made.tokens.copy_(tokens)
    return made


@pytest.mark.parametrize("chunk", CHUNKS)
@torch.no_grad()
def test_double_block(model, chunk):
    tokens, vec = torch.randn(2, VIDEO + TEXT, 32), torch.randn(2, 32)
    block = model.double_blocks[0]
    assert isinstance(block, DoubleStreamBlock)
    modulation = block.modulation(vec)
    made = sequence(model, chunk, tokens)
    run_double(block, made, modulation)
    img, txt = block(tokens[:, :VIDEO], tokens[:, VIDEO:], modulation, made.rope)
    torch.testing.assert_close(made.tokens, torch.cat([img, txt], dim=1), rtol=1e-5, atol=2e-5)


@pytest.mark.parametrize("chunk", CHUNKS)
@torch.no_grad()
def test_single_block(model, chunk):
    tokens, vec = torch.randn(2, VIDEO + TEXT, 32), torch.randn(2, 32)
    block = model.single_blocks[0]
    assert isinstance(block, SingleStreamBlock)
    (modulation,) = block.modulation(vec)
    made = sequence(model, chunk, tokens)
    run_single(block, made, modulation)
    torch.testing.assert_close(made.tokens, block(tokens, modulation, made.rope), rtol=1e-5, atol=2e-5)


@pytest.mark.parametrize("arithmetic", ["dequantize", "w8a8"])
@pytest.mark.parametrize("codes", [torch.int8, torch.float8_e4m3fn])
@torch.no_grad()
def test_quantized_blocks(codes, arithmetic):
    """Codes made once per chunk, in the norm and behind the GELU, are those that each layer would make for itself.

    Attention over chunks differs in the last bit, which may move a value over a rounding edge: the distance is small.
    """
    torch.manual_seed(4)
    model = HunyuanVideoTransformer(CONFIG).eval()
    for block in (*model.double_blocks, *model.single_blocks):
        for name, layer in [(n, each) for n, each in block.named_modules() if isinstance(each, torch.nn.Linear)]:
            if "mod" not in name:
                weight, scale = quantize_tokens(layer.weight.detach(), codes)
                block.set_submodule(name, QuantLinear(weight, scale, layer.bias, arithmetic))
    tokens, vec = torch.randn(1, VIDEO + TEXT, 32), torch.randn(1, 32)
    made = sequence(model, 16, tokens)
    double, single = model.double_blocks[0], model.single_blocks[0]
    assert isinstance(double, DoubleStreamBlock)
    assert isinstance(single, SingleStreamBlock)
    run_double(double, made, double.modulation(vec))
    whole = torch.cat(double(tokens[:, :VIDEO], tokens[:, VIDEO:], double.modulation(vec), made.rope), dim=1)
    assert (made.tokens - whole).norm() < 2e-3 * (whole - tokens).norm()
    before = made.tokens.clone()
    run_single(single, made, *single.modulation(vec))
    whole = single(before, *single.modulation(vec), made.rope)
    assert (made.tokens - whole).norm() < 2e-3 * (whole - before).norm()


@settings(max_examples=200, deadline=None)
@given(video=st.integers(1, 200), text=st.integers(1, 40), chunk=st.integers(1, 250))
def test_spans_cover_every_token_once(video, text, chunk):
    spans = list(token_spans(video, text, chunk))
    assert [i for span in spans for i in range(span.start, span.end)] == list(range(video + text))
    assert all(span.end - span.start <= chunk for span in spans)
    assert all(span.is_video == (span.end <= video) for span in spans)
