"""What the transformer refuses, each with one clear error."""

from __future__ import annotations

import pytest
import torch

from hvlite.errors import ConfigError
from hvlite.lite.models.transformer import HunyuanVideoTransformer, valid_lengths
from hvlite.quantize.architecture import TransformerConfig

TINY = TransformerConfig(
    hidden_size=16,
    heads_num=2,
    mm_double_blocks_depth=1,
    mm_single_blocks_depth=1,
    rope_dim_list=(4, 2, 2),
    text_states_dim=6,
    text_states_dim_2=5,
)


@pytest.fixture(scope="module")
def model() -> HunyuanVideoTransformer:
    torch.manual_seed(0)
    return HunyuanVideoTransformer(TINY).eval()


def inputs(**changes: object) -> dict[str, object]:
    values = {
        "latents": torch.zeros(1, 16, 1, 4, 4),
        "timestep": torch.tensor([500.0]),
        "guidance": torch.tensor([6000.0]),
        "prompt_embeds": torch.zeros(1, 3, 6),
        "prompt_mask": torch.ones(1, 3),
        "pooled_prompt_embeds": torch.zeros(1, 5),
    }
    return values | changes


def test_the_inputs_are_right_to_begin_with(model):
    assert model(**inputs()).shape == (1, 16, 1, 4, 4)


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"latents": torch.zeros(1, 4, 1, 4, 4)}, "latents"),
        ({"latents": torch.zeros(16, 1, 4, 4)}, "latents"),
        ({"latents": torch.zeros(1, 16, 1, 3, 4)}, "patches"),
        ({"latents": torch.zeros(1, 16, 0, 4, 4)}, "patches"),
        ({"timestep": torch.tensor(500.0)}, "timestep"),
        ({"guidance": torch.zeros(2)}, "guidance"),
        ({"guidance": None}, "guidance"),
        ({"prompt_embeds": torch.zeros(1, 3, 7)}, "prompt_embeds"),
        ({"prompt_mask": torch.ones(1, 4)}, "prompt_mask"),
        ({"prompt_mask": torch.zeros(1, 3)}, "prompt_mask"),
        ({"prompt_mask": torch.tensor([[0, 1, 1]])}, "right-padded"),
        ({"prompt_mask": torch.tensor([[1, 0, 1]])}, "right-padded"),
        ({"pooled_prompt_embeds": torch.zeros(1, 6)}, "pooled_prompt_embeds"),
    ],
)
def test_wrong_inputs_are_refused_by_name(model, changes, word):
    with pytest.raises(ConfigError, match=word):
        model(**inputs(**changes))


def test_unknown_rotary_axes_are_asked_for():
    config = TransformerConfig(**{**vars(TINY), "rope_dim_list": None})
    with pytest.raises(ConfigError, match="rotary axes") as caught:
        HunyuanVideoTransformer(config)(**inputs())
    assert "rope_dim_list" in (caught.value.hint or "")


def test_an_undistilled_transformer_takes_no_guidance():
    model = HunyuanVideoTransformer(TransformerConfig(**{**vars(TINY), "guidance_embed": False}))
    assert model(**inputs(guidance=None)).shape == (1, 16, 1, 4, 4)
    assert not any(name.startswith("guidance_in") for name, _ in model.named_parameters())


def test_a_transformer_without_qk_norm_has_no_norm_weights():
    model = HunyuanVideoTransformer(TransformerConfig(**{**vars(TINY), "qk_norm": None}))
    assert not any("q_norm" in name for name, _ in model.named_parameters())
    assert model(**inputs()).shape == (1, 16, 1, 4, 4)


def test_valid_lengths():
    embeds = torch.zeros(2, 4, 6)
    assert valid_lengths(embeds, None) == [4, 4]
    assert valid_lengths(embeds, torch.tensor([[1, 1, 0, 0], [1, 1, 1, 1]])) == [2, 4]


@pytest.mark.parametrize(
    "wrong",
    [
        {"hidden_size": 15},
        {"heads_num": 0},
        {"rope_dim_list": (4, 2, 4)},
        {"rope_dim_list": (3, 3, 2)},
        {"qk_norm": "layer"},
        {"mm_double_blocks_depth": -1},
    ],
)
def test_impossible_architectures_are_refused(wrong):
    with pytest.raises(ConfigError):
        TransformerConfig(**{**vars(TINY), **wrong})
