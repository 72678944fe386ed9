from __future__ import annotations

import dataclasses
import random

import pytest
import torch
from torch import Tensor

from hvlite.demo import data
from hvlite.demo.scoring import look, score


def drawn(scene: data.Scene, frames: int = 17, height: int = 80, width: int = 80) -> Tensor:
    pixels = (data.render(scene, frames, height, width) + 1) * 127.5
    return pixels.round().byte().permute(1, 2, 3, 0)


@pytest.mark.parametrize(("frames", "height", "width"), [(17, 80, 80), (9, 80, 80), (17, 64, 96), (33, 96, 64)])
def test_rendered_scenes_are_read_back_exactly(frames: int, height: int, width: int) -> None:
    rng = random.Random(frames + width)
    for _ in range(8):
        scene = data.sample_scene(rng)
        result = score(scene, drawn(scene, frames, height, width))
        assert result.all_right, scene
        assert result.background, scene


@pytest.mark.parametrize("motion", data.MOTIONS)
@pytest.mark.parametrize("shape", data.SHAPES)
def test_every_shape_and_motion_is_told_from_the_others(shape: str, motion: str) -> None:
    scene = data.Scene("red", shape, "small", motion, ("black",), None, 10.0, (0.0, 0.0))
    seen = look(drawn(scene))
    assert (seen.shape, seen.motion) == (shape, motion)


def test_a_wrong_video_is_not_called_right() -> None:
    asked = data.Scene("red", "circle", "large", "left", ("black",), None, 16.0, (0.0, 0.0))
    shown = dataclasses.replace(asked, colour="blue", shape="star", motion="grow", background=("pink",))
    result = score(asked, drawn(shown))
    assert (result.colour, result.shape, result.motion, result.background) == (False, False, False, False)


def test_a_video_without_a_shape_shows_nothing() -> None:
    seen = look(torch.full((17, 80, 80, 3), 12, dtype=torch.uint8))
    assert (seen.colour, seen.shape, seen.motion, seen.background) == (None, None, None, frozenset({"black"}))
