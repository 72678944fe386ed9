from __future__ import annotations

import random
from collections import Counter

from hvlite.demo import captions, data


def some(count: int = 600) -> list[tuple[data.Scene, str]]:
    rng = random.Random(4)
    scenes = [data.sample_scene(rng) for _ in range(count)]
    return [(scene, captions.caption(scene, rng)) for scene in scenes]


def test_a_caption_names_the_colour_and_the_shape() -> None:
    for scene, text in some():
        lower = text.lower()
        assert any(word in lower for word in captions.COLOUR_WORDS[scene.colour]), text
        assert any(word in lower for word in captions.SHAPE_WORDS[scene.shape]), text


def test_a_caption_that_names_no_background_belongs_to_a_plain_one() -> None:
    unnamed = [scene for scene, text in some() if "background" not in text.lower()]
    assert unnamed
    assert all(scene.split is None for scene in unnamed)


def test_a_caption_without_a_motion_belongs_to_a_scene_that_stands_still() -> None:
    short = [scene.motion for scene, text in some(2000) if len(text.split()) <= 3]
    assert short.count("still") > 0
    moving = [motion for motion in short if motion != "still"]
    # three words can still say "red circle shrinks"
    assert Counter(moving).keys() <= {"grow", "shrink", "bounce", *data.DIRECTIONS}


def test_captions_are_tidy_text() -> None:
    for _, text in some():
        assert text == " ".join(text.split())
        assert ",," not in text
        assert " ," not in text


def test_phrasings_are_many() -> None:
    scene = data.Scene("red", "circle", "large", "right", ("black",), None, 16.0, (0.0, 0.0))
    rng = random.Random(1)
    assert len({captions.caption(scene, rng) for _ in range(300)}) > 270
