from __future__ import annotations

from pathlib import Path

import pytest
import torch

import hvlite
from hvlite.demo import vocabulary
from hvlite.lite.card import demo_root, load_card

LIMIT_BYTES = 12_000_000


@pytest.fixture(scope="module")
def root() -> Path:
    return demo_root()


def test_the_shipped_model_is_at_most_12_mb(root: Path) -> None:
    size = sum(path.stat().st_size for path in root.rglob("*") if path.is_file())
    assert 1_000_000 < size <= LIMIT_BYTES


def test_the_card_says_how_the_model_was_trained(root: Path) -> None:
    card = load_card(root)
    assert card.name == "hvlite-demo"
    assert card.prompt_template == vocabulary.TEMPLATE
    assert card.latent_rgb is not None
    assert (card.height, card.width) in card.sizes


def test_unknown_words_fall_into_pieces_and_an_empty_prompt_leaves_its_end(root: Path) -> None:
    llm, clip = vocabulary.load(root)
    assert len(llm.encode("").ids) == vocabulary.TEMPLATE.crop_start + 1
    known, unknown = llm.encode("a red circle").ids, llm.encode("a photorealistic zebra \N{UNICORN FACE}").ids
    assert len(known) == vocabulary.TEMPLATE.crop_start + 4
    assert len(unknown) > len(known)
    assert clip.encode("A RED circle").ids == clip.encode("a red circle").ids


def test_the_vae_keeps_what_a_scene_shows(root: Path) -> None:
    from hvlite.demo.evaluate import reconstruct

    torch.set_num_threads(1)
    result = reconstruct(root, 4)
    assert result["vae_psnr_db"] > 26
    assert result["vae_shape"] == 1


def test_a_prompt_gives_its_colour() -> None:
    from hvlite.demo.scoring import look

    torch.set_num_threads(1)
    pipeline = hvlite.load(device="cpu", keep_loaded=True)
    for colour in ("red", "green"):
        frames = pipeline.generate(f"a large {colour} circle on a black background", seed=1, steps=8).frames
        assert look(frames).colour == colour
