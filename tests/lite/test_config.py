from __future__ import annotations

import json
import unicodedata
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hvlite.errors import ConfigError
from hvlite.lite.card import OFFICIAL_CARD
from hvlite.lite.config import MAX_SEED, GenerateConfig, GenerateRequest, draw_seed
from hvlite.lite.request.prompt import DEFAULT_NEGATIVE_PROMPT, clean_prompt, require_prompt
from hvlite.lite.request.sizes import (
    ASPECTS,
    MAX_FRAMES,
    MAX_SIDE,
    check_frames,
    check_side,
    nearest_valid,
    size_by_name,
)

MANIFESTS = Path(__file__).parents[1] / "data" / "manifests"
INTEGERS = st.one_of(st.integers(-100, 20_000), st.integers(), st.sampled_from([0, -1, 2**31, 2**63, -(2**64)]))


def config(**changes: Any) -> GenerateConfig:
    return GenerateConfig.from_card(OFFICIAL_CARD, **{"prompt": "a cat", "seed": 1, **changes})


def test_the_cards_defaults() -> None:
    made = config()
    assert (made.height, made.width, made.frames, made.steps, made.fps) == (720, 1280, 129, 50, 24)
    assert (made.guidance_scale, made.flow_shift, made.cfg_scale) == (6.0, 7.0, 1.0)
    assert made.flow_reverse
    assert made.latent_shape == (1, 16, 33, 90, 160)


def test_what_is_given_wins_and_none_is_not_given() -> None:
    made = config(height=32, width=48, frames=5, steps=None, guidance_scale=0)
    assert (made.height, made.width, made.frames, made.steps, made.guidance_scale) == (32, 48, 5, 50, 0.0)


def test_without_a_seed_one_is_drawn() -> None:
    seeds = {config(seed=None).seed for _ in range(8)}
    assert len(seeds) > 1
    assert all(0 <= seed < 2**32 for seed in seeds)
    assert 0 <= draw_seed() < 2**32


@given(
    prompt=st.text(min_size=1).filter(lambda text: text.strip() and "\0" not in text),
    negative=st.none() | st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0")),
    height=st.integers(1, 100).map(lambda value: 16 * value),
    frames=st.integers(0, 100).map(lambda value: 4 * value + 1),
    seed=st.integers(0, MAX_SEED),
    guidance=st.floats(0, 100),
)
def test_json_round_trip(
    prompt: str, negative: str | None, height: int, frames: int, seed: int, guidance: float
) -> None:
    made = config(
        prompt=prompt, negative_prompt=negative, height=height, frames=frames, seed=seed, guidance_scale=guidance
    )
    assert GenerateConfig.from_json(json.loads(json.dumps(made.to_json()))) == made


def test_prompts_are_stripped_and_nfc() -> None:
    decomposed = unicodedata.normalize("NFD", "  ein Käfer läuft \n")
    assert config(prompt=decomposed).prompt == "ein Käfer läuft"
    assert config(negative_prompt=decomposed).negative_prompt == "ein Käfer läuft"


@pytest.mark.parametrize("prompt", ["", " \n\t", "\u3000", "a\0b", "a\ud800b", "x" * 20_001, None, 7, b"cat"])
def test_prompts_that_are_refused(prompt: Any) -> None:
    with pytest.raises(ConfigError):
        require_prompt(prompt)


@given(st.text(st.characters()))
def test_any_text_is_cleaned_or_refused(text: str) -> None:
    try:
        cleaned = clean_prompt(text)
    except ConfigError:
        return
    assert cleaned == unicodedata.normalize("NFC", cleaned)
    assert cleaned.encode("utf-8").decode("utf-8") == cleaned
    assert clean_prompt(cleaned) == cleaned.strip()


@pytest.mark.parametrize(
    ("cfg_scale", "negative", "effective"),
    [
        (1.0, None, None),
        (1.0, "blur", None),
        (2.5, None, DEFAULT_NEGATIVE_PROMPT),
        (2.5, "", DEFAULT_NEGATIVE_PROMPT),
        (2.5, "blur", "blur"),
    ],
)
def test_negative_prompt_as_in_the_official_code(cfg_scale: float, negative: str | None, effective: str | None) -> None:
    assert config(cfg_scale=cfg_scale, negative_prompt=negative).effective_negative_prompt == effective


def test_the_built_in_negative_prompt_is_the_recorded_one() -> None:
    recorded = json.loads((MANIFESTS / "prompt_templates.json").read_text())
    assert recorded["negative_prompt_default"] == DEFAULT_NEGATIVE_PROMPT


BAD: list[tuple[str, Any]] = [
    *[("height", value) for value in (0, -16, 8, 17, 1000, 8208, 2**63, 32.0, "32", True)],
    *[("width", value) for value in (0, 33, 2**31)],
    *[("frames", value) for value in (0, -3, 2, 4, 128, 4101, 2**40, 5.0, False)],
    *[("steps", value) for value in (0, -1, 1001, 2.0, True)],
    *[("seed", value) for value in (-1, 2**63, 1.5, "1")],
    *[("fps", value) for value in (0, -24, 241, 23.976)],
    *[("guidance_scale", value) for value in (-1, 101, float("nan"), float("inf"), 10**400, "6", True)],
    *[("cfg_scale", value) for value in (0, 0.99, 101, float("nan"))],
    *[("flow_shift", value) for value in (0, -7, 1001, float("-inf"))],
    *[("flow_reverse", value) for value in (1, "yes")],
    *[("vae_tiling", value) for value in (0, "no")],
    *[("negative_prompt", value) for value in (3, "a\0", "\udcff")],
]


@pytest.mark.parametrize(("name", "value"), BAD)
def test_values_that_are_refused(name: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=name.replace("_", "[_ ]")):
        config(**{name: value})


def test_from_json_names_unknown_and_missing() -> None:
    data = config().to_json()
    with pytest.raises(ConfigError, match="unknown: colour"):
        GenerateConfig.from_json({**data, "colour": "red"})
    del data["steps"]
    with pytest.raises(ConfigError, match="missing: steps"):
        GenerateConfig.from_json(data)


@given(INTEGERS)
def test_sides(value: int) -> None:
    if value % 16 == 0 and 16 <= value <= MAX_SIDE:
        check_side("height", value)
        return
    with pytest.raises(ConfigError, match=str(value)) as caught:
        check_side("height", value)
    assert_nearest(caught.value.hint, value, list(range(16, MAX_SIDE + 1, 16)))


@given(INTEGERS)
def test_frame_counts(value: int) -> None:
    if value % 4 == 1 and 1 <= value <= MAX_FRAMES:
        check_frames(value)
        return
    with pytest.raises(ConfigError, match=str(value)) as caught:
        check_frames(value)
    assert_nearest(caught.value.hint, value, list(range(1, MAX_FRAMES + 1, 4)))


def assert_nearest(hint: str | None, value: int, valid: list[int]) -> None:
    assert hint is not None
    named = [int(word) for word in hint.split() if word.isdecimal()]
    assert set(named) <= set(valid)
    assert min(abs(value - each) for each in named) == min(abs(value - each) for each in valid)


@pytest.mark.parametrize(
    ("value", "nearest"),
    [(1000, (992, 1008)), (992, (992, 992)), (-5, (16, 16)), (9999, (8192, 8192)), (8191, (8176, 8192))],
)
def test_nearest_valid(value: int, nearest: tuple[int, int]) -> None:
    assert nearest_valid(value, step=16, offset=0, low=16, high=8192) == nearest


def test_sizes_by_name() -> None:
    named = {size_by_name(OFFICIAL_CARD, resolution, aspect) for resolution in ("720p", "540p") for aspect in ASPECTS}
    assert named == set(OFFICIAL_CARD.sizes)
    assert size_by_name(OFFICIAL_CARD, "540p", None) == (544, 960)
    assert size_by_name(OFFICIAL_CARD, None, None) == (720, 1280)
    assert size_by_name(OFFICIAL_CARD, None, "1:1") == (960, 960)


@pytest.mark.parametrize(("resolution", "aspect"), [("1080p", None), ("", None), (None, "2:1"), ("720p", "1:2")])
def test_names_that_are_refused(resolution: str | None, aspect: str | None) -> None:
    with pytest.raises(ConfigError, match="not known"):
        size_by_name(OFFICIAL_CARD, resolution, aspect)


@pytest.mark.parametrize(
    "changes",
    [
        {"force": True, "resume": True},
        {"preview_every": 0},
        {"threads": 0},
        {"threads": 1.5},
        {"precision": "fp64"},
        {"device": "tpu"},
    ],
)
def test_requests_that_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        GenerateRequest(config=config(), output=Path("a.mp4"), **changes)


def test_the_state_folder() -> None:
    assert GenerateRequest(config=config(), output=Path("a/b.mp4")).state_folder == Path("a/b.mp4.hvlite")
