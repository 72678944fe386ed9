from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from hvlite.errors import CheckpointError, ConfigError
from hvlite.lite.card import CARD_NAME, OFFICIAL_CARD, OFFICIAL_SIZES, ModelCard, PromptTemplate, load_card, named_model

MANIFESTS = Path(__file__).parents[1] / "data" / "manifests"


def card_json() -> dict[str, Any]:
    template = {"template": "video: {}", "crop_start": 3, "max_length": 32}
    return {
        "name": "small",
        "height": 64,
        "width": 96,
        "frames": 17,
        "steps": 20,
        "guidance_scale": 6,
        "flow_shift": 5.0,
        "fps": 12,
        "sizes": [[64, 96], [96, 64]],
        "prompt_template": template,
        "image_template": template,
        "latent_rgb": {"weight": [[0.1] * 16] * 3, "bias": [0.5, 0.5, 0.5]},
    }


def write_card(folder: Path, data: object) -> Path:
    (folder / CARD_NAME).write_text(json.dumps(data))
    return folder


@pytest.mark.parametrize(
    ("name", "template"),
    [("dit-llm-encode-video", OFFICIAL_CARD.prompt_template), ("dit-llm-encode", OFFICIAL_CARD.image_template)],
)
def test_official_templates_are_the_recorded_ones(name: str, template: PromptTemplate) -> None:
    recorded = json.loads((MANIFESTS / "prompt_templates.json").read_text())[name]
    assert template.template == recorded["template"]
    assert template.crop_start == recorded["crop_start"]
    assert template.crop_start + template.max_length == 351


def test_official_defaults() -> None:
    card = OFFICIAL_CARD
    assert (card.height, card.width, card.frames, card.steps) == (720, 1280, 129, 50)
    assert (card.guidance_scale, card.flow_shift, card.fps) == (6.0, 7.0, 24)
    assert set(card.sizes) == {
        (720, 1280),
        (1280, 720),
        (1104, 832),
        (832, 1104),
        (960, 960),
        (544, 960),
        (960, 544),
        (624, 832),
        (832, 624),
        (720, 720),
    }
    for by_aspect in OFFICIAL_SIZES.values():
        for aspect, (height, width) in by_aspect.items():
            across, down = map(int, aspect.split(":"))
            assert width / height == pytest.approx(across / down, rel=0.04)


def test_braces_in_a_prompt_stay() -> None:
    assert PromptTemplate("a {} z", 0, 1).format("{0} {} {x}") == "a {0} {} {x} z"


def test_a_folder_without_a_card_is_the_official_model(tmp_path: Path) -> None:
    assert load_card(tmp_path) is OFFICIAL_CARD
    weights = tmp_path / "model.safetensors"
    weights.touch()
    assert load_card(weights) is OFFICIAL_CARD


def test_a_folder_gives_its_card_to_a_file_in_it(tmp_path: Path) -> None:
    weights = write_card(tmp_path, card_json()) / "model.safetensors"
    weights.touch()
    card = load_card(weights)
    assert card == load_card(tmp_path)
    assert card.sizes == ((64, 96), (96, 64))
    assert card.guidance_scale == 6.0
    assert card.latent_rgb is not None
    assert len(card.latent_rgb.weight) == 3


def test_latent_rgb_may_be_missing() -> None:
    data = card_json()
    del data["latent_rgb"]
    assert ModelCard.from_json(data).latent_rgb is None


BAD: dict[str, dict[str, Any]] = {
    "unknown field": {"colour": 1},
    "empty name": {"name": " "},
    "name for a terminal": {"name": "\x1b[31mred"},
    "odd height": {"height": 65},
    "frames not 4k+1": {"frames": 16},
    "no steps": {"steps": 0},
    "steps not whole": {"steps": 1.5},
    "guidance text": {"guidance_scale": "6"},
    "guidance bool": {"guidance_scale": True},
    "shift zero": {"flow_shift": 0},
    "sizes no list": {"sizes": 64},
    "size of three": {"sizes": [[64, 64, 64]]},
    "size odd": {"sizes": [[64, 60]]},
    "size negative": {"sizes": [[-16, 64]]},
    "template without a place": {"prompt_template": {"template": "x", "crop_start": 0, "max_length": 8}},
    "template two places": {"image_template": {"template": "{}{}", "crop_start": 0, "max_length": 8}},
    "template crop": {"prompt_template": {"template": "{}", "crop_start": -1, "max_length": 8}},
    "template length": {"prompt_template": {"template": "{}", "crop_start": 0, "max_length": 0}},
    "template field": {"prompt_template": {"template": "{}", "crop_start": 0}},
    "template text": {"prompt_template": "{}"},
    "rgb rows": {"latent_rgb": {"weight": [[0.1] * 16] * 2, "bias": [0, 0, 0]}},
    "rgb channels": {"latent_rgb": {"weight": [[0.1] * 4] * 3, "bias": [0, 0, 0]}},
    "rgb bias": {"latent_rgb": {"weight": [[0.1] * 16] * 3, "bias": [0]}},
    "rgb object": {"latent_rgb": [1]},
    "rgb number": {"latent_rgb": {"weight": [["a"] * 16] * 3, "bias": [0, 0, 0]}},
}


@pytest.mark.parametrize("change", BAD.values(), ids=BAD.keys())
def test_a_bad_card_is_refused_and_named(tmp_path: Path, change: dict[str, Any]) -> None:
    write_card(tmp_path, {**card_json(), **change})
    with pytest.raises(CheckpointError, match=CARD_NAME):
        load_card(tmp_path)


@pytest.mark.parametrize("missing", [name for name in card_json() if name != "latent_rgb"])
def test_a_missing_field_is_refused(tmp_path: Path, missing: str) -> None:
    data = card_json()
    del data[missing]
    write_card(tmp_path, data)
    with pytest.raises(CheckpointError, match=missing):
        load_card(tmp_path)


@pytest.mark.parametrize("text", ["", "[]", "7", "{", '{"name": "a", "name": "b"}', '{"steps": NaN}'])
def test_a_card_that_is_no_object_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / CARD_NAME).write_text(text)
    with pytest.raises(CheckpointError, match=CARD_NAME):
        load_card(tmp_path)


def test_the_word_demo_names_the_model_that_ships(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert named_model("demo") is None
    assert named_model(None) is None
    assert named_model("./demo") == named_model(Path("demo")) == Path("demo")
    assert named_model("~/model") == tmp_path / "model"
    with pytest.raises(ConfigError, match="no such home folder"):
        named_model("~nobody-has-this-name/model")


def test_load_knows_the_word_too(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import hvlite

    monkeypatch.chdir(tmp_path)
    assert hvlite.load("demo", device="cpu").card == load_card(None)
