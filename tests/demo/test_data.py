from __future__ import annotations

import random

import pytest
import torch

from hvlite.demo import data

HELD_OUT = {
    (colour, shape, motion)
    for colour in data.COLOURS
    for shape in data.SHAPES
    for motion in data.MOTIONS
    if data.is_held_out(colour, shape, motion)
}


@pytest.mark.parametrize("held_out", [False, True])
def test_training_and_held_out_scenes_share_no_triple(held_out: bool) -> None:
    rng = random.Random(1)
    scenes = [data.sample_scene(rng, held_out) for _ in range(400)]
    triples = {(scene.colour, scene.shape, scene.motion) for scene in scenes}
    assert all((triple in HELD_OUT) == held_out for triple in triples)


def test_the_held_out_triples_cover_every_colour_shape_and_motion() -> None:
    assert len(HELD_OUT) == 50
    colours, shapes, motions = zip(*HELD_OUT, strict=True)
    assert set(colours) == set(data.COLOURS)
    assert set(shapes) == set(data.SHAPES)
    assert set(motions) == set(data.MOTIONS)


def test_a_window_shows_the_same_pixels_as_the_whole_video() -> None:
    scene = data.sample_scene(random.Random(5))
    whole = data.render(scene, 17, 80, 96)
    part = data.render(scene, 17, 80, 96, window=(4, 9, 16, 40, 8, 48))
    torch.testing.assert_close(part, whole[:, 4:13, 16:56, 8:56])


@pytest.mark.parametrize(("frames", "height", "width"), [(1, 64, 64), (17, 64, 96), (33, 96, 64)])
def test_the_shape_stays_inside_the_canvas(frames: int, height: int, width: int) -> None:
    rng = random.Random(2)
    for _ in range(100):
        scene = data.sample_scene(rng)
        for x, y, radius in data.path(scene, frames, height, width):
            assert 0.7 * radius < x < width - 0.7 * radius
            assert 0.7 * radius < y < height - 0.7 * radius


def test_no_scene_hides_its_shape_on_a_background_like_it() -> None:
    rng = random.Random(3)
    for _ in range(300):
        scene = data.sample_scene(rng)
        assert not {(scene.colour, name) for name in scene.background} & data.LOW_CONTRAST
