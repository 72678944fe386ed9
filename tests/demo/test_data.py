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
        scene = data.sample_scene(rng, placement="anywhere")
        for x, y, radius in data.path(scene, frames, height, width):
            assert 0.7 * radius < x < width - 0.7 * radius
            assert 0.7 * radius < y < height - 0.7 * radius


@pytest.mark.parametrize("canvas", [(80, 80), (64, 96), (96, 96)])
def test_centres_end_every_latent_frame_on_the_lattice(canvas: tuple[int, int]) -> None:
    """Whole cells where there is room for 2 pixels a frame, half cells elsewhere."""
    rng = random.Random(6)
    for _ in range(150):
        scene = data.sample_scene(rng, placement="cells")
        for x, y, _ in data.path(scene, 17, *canvas)[::4]:
            step = data.CELL if min(canvas) >= 80 or scene.motion == "bounce" else data.CELL / 2
            assert (x % step, y % step) == (0, 0), scene


def test_a_path_through_the_middle_follows_from_what_a_caption_says() -> None:
    rng = random.Random(7)
    paths: dict[tuple[str, str], set[tuple[tuple[float, float, float], ...]]] = {}
    for _ in range(400):
        scene = data.sample_scene(rng)
        paths.setdefault((scene.size, scene.motion), set()).add(tuple(data.path(scene, 17, 80, 80)))
    assert all(len(found) == 1 for found in paths.values())


def test_scenes_that_are_anywhere_are() -> None:
    rng = random.Random(7)
    scenes = [data.sample_scene(rng, placement="anywhere") for _ in range(200)]
    assert len({data.path(scene, 17, 80, 80)[0] for scene in scenes}) > 150
    assert len({scene.radius for scene in scenes}) > 150


def test_every_motion_is_seen_on_the_smallest_canvas() -> None:
    rng = random.Random(8)
    for _ in range(150):
        scene = data.sample_scene(rng)
        poses = data.path(scene, 17, 64, 64)
        assert (len(set(poses)) == 1) == (scene.motion == "still"), scene


def test_no_scene_hides_its_shape_on_a_background_like_it() -> None:
    rng = random.Random(3)
    for _ in range(300):
        scene = data.sample_scene(rng)
        assert not {(scene.colour, name) for name in scene.background} & data.LOW_CONTRAST
