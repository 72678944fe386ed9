"""The two-pass schedule over token chunks computes what the whole block computes, for any chunk."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hvlite.kernels import ops, quantized_attention
from hvlite.kernels.attention_variant import INT8_FP8, INT8_FP8_FP16, INT8_FP16, VARIANTS
from hvlite.kernels.key_layout import KeyLayout
from hvlite.kernels.quantized_kv import QuantizedKV
from hvlite.kernels.reference import quantize_tokens
from hvlite.lite.attention import EXACT, Attention
from hvlite.lite.models.blocks import DoubleStreamBlock, SingleStreamBlock
from hvlite.lite.models.chunked import Sequence, run_double, run_single, token_spans
from hvlite.lite.models.keys_values import PlainKeysValues, QuantizedKeysValues
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


def sequence(
    model: HunyuanVideoTransformer, chunk: int, tokens: torch.Tensor, attention: Attention = EXACT, grid=GRID
) -> Sequence:
    rope = model.rope(grid, torch.device("cpu"))
    video = rope.cos.shape[0]
    made = Sequence.allocate(CONFIG, tokens.shape[0], video, tokens.shape[1] - video, rope, tokens, chunk, attention)
    # An element that is read before it is written must show.
    if isinstance(made.kv, PlainKeysValues):
        made.kv.k.fill_(torch.nan)
        made.kv.v.fill_(torch.nan)
    elif isinstance(made.kv, QuantizedKeysValues):
        made.kv.kv.k_scale.fill_(torch.nan)
        made.kv.kv.v.fill_(torch.nan)
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


# K and V in 8 bits

LONG_GRID = (3, 8, 10)  # 240 tokens: three blocks of 64 keys and a part of one
EIGHT_BIT = [INT8_FP16, INT8_FP8_FP16, INT8_FP8]
each_variant = pytest.mark.parametrize("variant", EIGHT_BIT, ids=[each.name for each in EIGHT_BIT])


def ran(model, tokens, chunk, attention, kind):
    vec = torch.linspace(-1, 1, 64).view(2, 32)
    made = sequence(model, chunk, tokens, attention, LONG_GRID)
    if kind == "double":
        run_double(model.double_blocks[0], made, model.double_blocks[0].modulation(vec))
    else:
        run_single(model.single_blocks[0], made, *model.single_blocks[0].modulation(vec))
    return made


@each_variant
@pytest.mark.parametrize("kind", ["double", "single"])
@torch.no_grad()
def test_eight_bits_are_close_to_exact(model, variant, kind):
    tokens = torch.randn(2, 240 + TEXT, 32)
    exact = ran(model, tokens, 1000, EXACT, kind).tokens - tokens
    found = ran(model, tokens, 128, Attention("hvlite", variant, "a test"), kind).tokens - tokens
    cosine = torch.nn.functional.cosine_similarity(found.flatten(), exact.flatten(), dim=0)
    assert cosine >= (0.999 if variant.is_transposed else 0.9999)
    assert not torch.equal(found, exact), "8 bits were not used"


@each_variant
@torch.no_grad()
def test_the_size_of_chunks_does_not_matter_in_eight_bits(model, variant):
    """K's codes and scales are the same; V's but for what is tiny."""
    tokens = torch.randn(2, 240 + TEXT, 32)
    attention = Attention("hvlite", variant, "a test")
    whole, parts = (ran(model, tokens, chunk, attention, "double") for chunk in (1000, 70))
    assert [span.end - span.start for span in parts.spans] == [64, 64, 64, 48, TEXT]
    valid = whole.kv.kv.layout.token_places()
    step = (whole.kv.kv.k[:, :, valid].int() - parts.kv.kv.k[:, :, valid].int()).abs()
    assert step.max() <= 1, "but where a product in chunks rounds another way"
    assert (step > 0).float().mean() < 0.01
    assert torch.equal(whole.kv.kv.v_scale, parts.kv.kv.v_scale)
    torch.testing.assert_close(whole.tokens, parts.tokens, rtol=0.02, atol=0.02)


@each_variant
@torch.no_grad()
def test_spans_give_what_the_whole_gives(variant):
    """K and V written in spans and Q in chunks, beside the same tensors at once: the same codes, the same result."""
    heads, dim, video, text = 2, 16, 200, 9
    q, k, v = (torch.randn(1, video + text, heads, dim) for _ in range(3))
    rows = quantized_attention.sample_rows(video, q.device)
    made = Sequence.allocate(CONFIG, 1, video, text, None, torch.empty(0), 64, Attention("hvlite", variant, "a test"))
    made.kv.begin(lambda: (k[:, rows], v[:, rows]))
    for span in made.spans:
        made.kv.keep(span.start, span.of(k), span.of(v), None, None)
    made.kv.finish()
    found = torch.cat([made.kv.attend(span.of(q), None, None) for span in made.spans], dim=1)

    whole = QuantizedKV.allocate(variant, KeyLayout((video, text)), 1, heads, dim, q.device)
    quantized_attention.set_means_(whole, k[:, rows], v[:, rows])
    for start, end in ((0, video), (video, video + text)):
        quantized_attention.quantize_keys_(whole, start, k[:, start:end])
        quantized_attention.quantize_values_(whole, start, v[:, start:end])
    quantized_attention.align_values_(whole)
    assert torch.equal(made.kv.kv.k, whole.k)
    assert torch.equal(made.kv.kv.k_scale, whole.k_scale)
    wanted = quantized_attention.attend(*quantized_attention.quantize_queries(q), whole, q.dtype)
    torch.testing.assert_close(found, wanted, rtol=0, atol=0.002)
    close = torch.nn.functional.cosine_similarity(found.flatten(), ops.joint_attention(q, k, v, variant).flatten(), 0)
    assert close >= 0.999


def test_variants_hold_what_they_say():
    assert [each.kv_bytes(2) for each in VARIANTS.values()] == [4, 3, 2, 2]
