"""Layer by layer, the language model says what it says whole, and holds one layer."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from hvlite.lite.card import load_card
from hvlite.lite.text import load_text_encoders
from hvlite.quantize.convert import QuantizeOptions, run_quantize
from hvlite.quantize.readers.locate import locate

PROMPTS = ["a red circle moves to the right", ""]


@pytest.fixture(scope="module")
def quantized(golden, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("model") / "nf4"
    run_quantize(QuantizeOptions(source=golden / "ckpts_diffusers", output=folder))
    return folder


@pytest.mark.parametrize("layout", ["official", "diffusers", "hvlite"])
def test_same_embeddings(layout, golden, quantized):
    root = quantized if layout == "hvlite" else golden / f"ckpts_{layout}"
    files, card = locate(root), load_card(root)
    whole = load_text_encoders(files, card).encode(PROMPTS)
    encoders = load_text_encoders(files, card, by_layer=True)
    for _ in range(2):  # the second time as the first
        layered = encoders.encode(PROMPTS)
        assert torch.equal(layered.prompt_embeds, whole.prompt_embeds)
        assert torch.equal(layered.prompt_mask, whole.prompt_mask)
        assert torch.equal(layered.pooled_prompt_embeds, whole.pooled_prompt_embeds)


def test_no_layer_stays(golden):
    root = golden / "ckpts_official"
    encoders = load_text_encoders(locate(root), load_card(root), by_layer=True)
    there: list[int] = []
    layers = encoders.llm.layers
    for layer in layers:
        layer.register_forward_pre_hook(lambda *_: there.append(sum(not p.is_meta for p in layers.parameters())))
    encoders.encode(PROMPTS[0])
    one = sum(1 for _ in layers[0].parameters())
    assert there == [one] * len(layers)
    assert all(parameter.is_meta for parameter in layers.parameters())
