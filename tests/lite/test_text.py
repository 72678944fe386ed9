"""The text encoders against the official TextEncoder's outputs, from both trees."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from hvlite.errors import ConfigError
from hvlite.lite.card import OFFICIAL_CARD
from hvlite.lite.text import TextEncoders, load_text_encoders
from hvlite.quantize.readers.locate import locate

STATES = 1e-4
POOLED = 1e-5
TREES = {"official tree": "ckpts_official", "diffusers tree": "ckpts_diffusers"}
Compare = Callable[[str, torch.Tensor, torch.Tensor, float], None]


@pytest.fixture(scope="module", params=list(TREES))
def tree(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def encoders(golden: Path, tree: str) -> TextEncoders:
    return load_text_encoders(locate(golden / TREES[tree]), OFFICIAL_CARD)


@pytest.fixture(scope="module")
def expected(golden: Path) -> dict[str, torch.Tensor]:
    return load_file(golden / "text" / "text.safetensors")


@pytest.fixture(scope="module")
def cases(golden: Path) -> dict[str, Any]:
    return json.loads((golden / "text" / "text.json").read_text())


def test_video_states_masks_and_pooled_match_the_official_encoder(
    encoders: TextEncoders, expected: dict[str, torch.Tensor], cases: dict[str, Any], compare: Compare, tree: str
) -> None:
    embeds = encoders.encode(cases["prompts"])
    assert torch.equal(embeds.prompt_mask, expected["video.attention_mask"].long())
    valid = embeds.prompt_mask.bool()
    compare(f"text states, {tree}", embeds.prompt_embeds[valid], expected["video.hidden_state"][valid], STATES)
    compare(f"CLIP pooled, {tree}", embeds.pooled_prompt_embeds, expected["clip_ftfy.pooled"], POOLED)
    assert not embeds.prompt_embeds[~valid].any()


def test_image_template_matches_the_official_encoder(
    encoders: TextEncoders, expected: dict[str, torch.Tensor], cases: dict[str, Any], compare: Compare, tree: str
) -> None:
    embeds = encoders.encode(cases["prompts"][0], image=True)
    assert embeds.prompt_embeds.shape[:2] == (1, 315)
    assert torch.equal(embeds.prompt_mask, expected["image.attention_mask"].long())
    valid = embeds.prompt_mask.bool()
    compare(
        f"text states, image, {tree}",
        embeds.prompt_embeds[valid],
        expected["image.hidden_state"][valid],
        STATES,
    )


def test_negative_prompt_matches_the_official_encoder(
    encoders: TextEncoders, expected: dict[str, torch.Tensor], cases: dict[str, Any], compare: Compare, tree: str
) -> None:
    embeds = encoders.encode(cases["negative_prompt"])
    assert torch.equal(embeds.prompt_mask, expected["neg.attention_mask"].long())
    states = embeds.prompt_embeds[embeds.prompt_mask.bool()]
    compare(f"text states, negative, {tree}", states, expected["neg.hidden_state_valid"][0], STATES)
    compare(f"CLIP pooled, negative, {tree}", embeds.pooled_prompt_embeds, expected["clip.neg_pooled"], POOLED)


def test_a_batch_equals_its_prompts_one_by_one(encoders: TextEncoders, cases: dict[str, Any]) -> None:
    prompts = [*cases["prompts"], "", "猫 😀"]
    batch = encoders.encode(prompts)
    for row, prompt in enumerate(prompts):
        single = encoders.encode(prompt)
        assert torch.equal(batch.prompt_embeds[row], single.prompt_embeds[0])
        assert torch.equal(batch.prompt_mask[row], single.prompt_mask[0])
        assert torch.equal(batch.pooled_prompt_embeds[row], single.pooled_prompt_embeds[0])


def test_an_empty_prompt_keeps_the_template_s_end(encoders: TextEncoders) -> None:
    embeds = encoders.encode("")
    assert embeds.prompt_mask.sum() == 1
    assert embeds.prompt_embeds.isfinite().all()
    assert torch.equal(embeds.prompt_embeds, encoders.encode(" \n ").prompt_embeds)


def test_cut_prompts_are_reported_with_the_embeds(encoders: TextEncoders, cases: dict[str, Any]) -> None:
    cuts = encoders.encode(cases["prompts"]).truncations
    assert [cut.encoder for cut in cuts] == ["text_encoder", "text_encoder_2"]
    assert encoders.encode(cases["prompts"][0]).truncations == ()


def test_the_language_model_stops_two_layers_early_and_keeps_fp32_positions(encoders: TextEncoders) -> None:
    assert len(encoders.llm.layers) == 4
    assert encoders.llm.rotary_emb.inv_freq.dtype == torch.float32
    assert encoders.llm.config._attn_implementation == "sdpa"


def test_half_precision_keeps_fp32_positions_and_stays_close(
    golden: Path, tree: str, expected: dict[str, torch.Tensor], cases: dict[str, Any]
) -> None:
    encoders = load_text_encoders(locate(golden / TREES[tree]), OFFICIAL_CARD, dtype=torch.float16)
    assert encoders.llm.rotary_emb.inv_freq.dtype == torch.float32
    assert encoders.llm.embed_tokens.weight.dtype == torch.float16
    embeds = encoders.encode(cases["prompts"][0])
    assert embeds.prompt_embeds.dtype == torch.float16
    valid = embeds.prompt_mask.bool()
    wanted = expected["video.hidden_state"][:1][valid]
    assert (embeds.prompt_embeds[valid].float() - wanted).norm() / wanted.norm() < 0.01


@pytest.mark.parametrize("prompts", [[], [None], ["a", 3]])
def test_encode_refuses_what_is_not_prompts(encoders: TextEncoders, prompts: list[Any]) -> None:
    with pytest.raises(ConfigError, match="prompt"):
        encoders.encode(prompts)
