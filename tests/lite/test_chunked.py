"""The two-pass schedule over token chunks computes what the whole block computes, for any chunk."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hvlite.lite.models.blocks import DoubleStreamBlock, SingleStreamBlock
from hvlite.lite.models.chunked import Sequence, run_double, run_single, token_spans
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


@settings(max_examples=200, deadline=None)
@given(video=st.integers(1, 200), text=st.integers(1, 40), chunk=st.integers(1, 250))
def test_spans_cover_every_token_once(video, text, chunk):
    spans = list(token_spans(video, text, chunk))
    assert [i for span in spans for i in range(span.start, span.end)] == list(range(video + text))
    assert all(span.end - span.start <= chunk for span in spans)
    assert all(span.is_video == (span.end <= video) for span in spans)
