"""Procedural videos: one flat shape that moves over a plain or two-tone background.

A `Scene` says what is seen; `render` draws it at any size, frame count and window. The speed is tied to the clip's
length, so that any number of frames shows the whole motion, except that clips under 17 frames show its first part.

Centres lie on the lattice of latent cells: at the frames that end a latent frame (0, 4, 8, ...) they are multiples of 8
pixels, and a move covers whole cells (half ones where there is little room). What the transformer learns from always
takes the path through the middle of the canvas: shape, size and motion then say where every edge is, which a model of
this size can learn in an hour. The VAE also sees paths that are shifted by a cell, and scenes that are anywhere.
"""

from __future__ import annotations

import hashlib
import math
import random
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (222, 40, 40),
    "green": (40, 170, 60),
    "blue": (45, 95, 235),
    "yellow": (247, 220, 45),
    "purple": (150, 55, 195),
    "orange": (245, 135, 25),
    "cyan": (45, 210, 222),
    "white": (246, 246, 246),
}
BACKGROUNDS: dict[str, tuple[int, int, int]] = {
    "black": (12, 12, 16),
    "gray": (72, 72, 78),
    "navy": (18, 26, 84),
    "brown": (92, 58, 30),
    "beige": (222, 200, 160),
    "pink": (235, 160, 180),
}
LOW_CONTRAST = {
    ("blue", "navy"),
    ("white", "pink"),
    ("white", "beige"),
    ("yellow", "beige"),
    ("orange", "brown"),
    ("purple", "gray"),
}
SHAPES = ("circle", "square", "triangle", "star")
SIZES: dict[str, float] = {"small": 10.5, "large": 16.0}
RADIUS_SPREAD = 0.05  # of the radii of scenes that are anywhere
Placement = Literal["middle", "cells", "anywhere"]
DIRECTIONS: dict[str, tuple[int, int]] = {
    "right": (1, 0),
    "left": (-1, 0),
    "down": (0, 1),
    "up": (0, -1),
    "down right": (1, 1),
    "down left": (-1, 1),
    "up right": (1, -1),
    "up left": (-1, -1),
}
MOTIONS = (*DIRECTIONS, "grow", "shrink", "bounce", "still")
EDGE = 1.5  # width in pixels of the anti-aliased edge
CELL = 8  # pixels of a latent cell
FULL_CLIP = 17  # frames that show a whole motion at its fastest
SMALLEST, LARGEST = 0.7, 1.25  # times the radius: where growing starts and ends


@dataclass(frozen=True)
class Scene:
    """One video's content. `background` holds one name, or two when `split` is "vertical" or "horizontal".

    `radius` is in pixels; `shift` (each in -1..1) moves the path off its usual place, by a cell where there is room.
    """

    colour: str
    shape: str
    size: str
    motion: str
    background: tuple[str, ...]
    split: str | None
    radius: float
    shift: tuple[float, float]


def is_held_out(colour: str, shape: str, motion: str) -> bool:
    """True for the 50 of all 384 (colour, shape, motion) triples that no training sample may show."""
    digest = hashlib.md5(f"{colour} {shape} {motion}".encode(), usedforsecurity=False).digest()
    # the second rule adds triples with the two motions that the first one happens to leave out
    return digest[0] % 10 == 0 or digest[2] % 28 == 0


def sample_scene(rng: random.Random, held_out: bool = False, placement: Placement = "middle") -> Scene:
    """A random scene, from the training triples or from the held-out ones.

    `placement`: the path through the middle, one that may be shifted by a cell, or any path and nearly any radius.
    """
    while True:
        colour, shape, motion = rng.choice(list(COLOURS)), rng.choice(SHAPES), rng.choice(MOTIONS)
        if is_held_out(colour, shape, motion) == held_out:
            break
    allowed = [name for name in BACKGROUNDS if (colour, name) not in LOW_CONTRAST]
    split = rng.choice(("vertical", "horizontal")) if rng.random() < 0.25 else None
    background = tuple(rng.sample(allowed, 2 if split else 1))
    size = rng.choice(list(SIZES))
    radius, shift = SIZES[size], (0.0, 0.0)
    if placement == "cells":
        shift = (float(rng.choice((-1, 0, 1))), float(rng.choice((-1, 0, 1))))
    elif placement == "anywhere":
        radius *= rng.uniform(1 - RADIUS_SPREAD, 1 + RADIUS_SPREAD)
        shift = (rng.uniform(-1, 1), rng.uniform(-1, 1))
    return Scene(colour, shape, size, motion, background, split, radius, shift)


def path(scene: Scene, frames: int, height: int, width: int) -> list[tuple[float, float, float]]:
    """Centre x, centre y and radius in pixels, for every frame."""
    span = max(FULL_CLIP, frames) - 1
    # a clip of one frame is a picture of the middle of the motion
    times = [0.5] if frames == 1 else [t / span for t in range(frames)]
    return [_pose(scene, u, height, width) for u in times]


def _pose(scene: Scene, u: float, height: int, width: int) -> tuple[float, float, float]:
    """Where the shape is at the share `u` of its motion."""
    x, y, radius = float(_centre(width)), float(_centre(height)), scene.radius
    room = (_cells(width / 2 - _extent(scene)), _cells(height / 2 - _extent(scene)))
    free = (min(CELL, room[0]), min(CELL, room[1]))
    if scene.motion in DIRECTIONS:
        dx, dy = DIRECTIONS[scene.motion]
        reach = min(2 * CELL, *(r for r, d in zip(room, (dx, dy), strict=True) if d))
        x, y = x + dx * reach * (2 * u - 1), y + dy * reach * (2 * u - 1)
        free = (0 if dx and reach >= room[0] else free[0], 0 if dy and reach >= room[1] else free[1])
    elif scene.motion == "bounce":
        along = (2 * u) % 1  # two arcs, each two cells high
        y += CELL - 8 * CELL * along * (1 - along)
        free = (free[0], 0)
    elif scene.motion in ("grow", "shrink"):
        radius *= SMALLEST + (LARGEST - SMALLEST) * (u if scene.motion == "grow" else 1 - u)
    return x + scene.shift[0] * free[0], y + scene.shift[1] * free[1], radius


def _centre(side: int) -> int:
    """The lattice point nearest to the middle."""
    return CELL * round(side / (2 * CELL))


def _extent(scene: Scene) -> float:
    """Pixels from the centre to the farthest point that the shape reaches."""
    largest = LARGEST if scene.motion in ("grow", "shrink") else 1.0
    return 1.35 * scene.radius * largest + 1


def _cells(pixels: float) -> int:
    """The whole cells that fit, in pixels."""
    return max(0, int(pixels // CELL) * CELL)


def signed_distance(shape: str, x: Tensor, y: Tensor, radius: Tensor) -> Tensor:
    """Distance to the outline in pixels, negative inside. x runs right, y down, from the shape's centre of mass."""
    if shape == "circle":
        return torch.hypot(x, y) - radius
    if shape == "square":
        return torch.maximum(x.abs(), y.abs()) - 0.9 * radius
    if shape == "triangle":
        slope = math.sqrt(3) / 2
        return torch.maximum(y, slope * x.abs() - 0.5 * y) - 0.7 * radius
    return _star_distance(x, y, 1.38 * radius)


def _star_distance(x: Tensor, y: Tensor, outer: Tensor) -> Tensor:
    sector = math.pi / 5
    angle = torch.remainder(torch.atan2(x, -y) + sector, 2 * sector) - sector
    along, across = torch.hypot(x, y) * angle.cos(), (torch.hypot(x, y) * angle.sin()).abs()
    inner = 0.42
    tip_x, tip_y = inner * math.cos(sector) - 1, inner * math.sin(sector)
    length = math.hypot(tip_x, tip_y)
    return ((along - outer) * tip_y - across * tip_x) / length


def render(
    scene: Scene, frames: int, height: int, width: int, window: tuple[int, int, int, int, int, int] | None = None
) -> Tensor:
    """Draw the scene. Returns float32 [3, F, H, W] in [-1, 1].

    `window` (first frame, frames, top, height, left, width) draws only that part of the video.
    """
    t0, f, top, h, left, w = window or (0, frames, 0, height, 0, width)
    poses = torch.tensor(path(scene, frames, height, width)[t0 : t0 + f])
    ys = (torch.arange(h) + top + 0.5).view(1, h, 1)
    xs = (torch.arange(w) + left + 0.5).view(1, 1, w)
    cx, cy, radius = (poses[:, i].view(f, 1, 1) for i in range(3))
    alpha = (0.5 - signed_distance(scene.shape, xs - cx, ys - cy, radius) / EDGE).clamp(0, 1)
    first = torch.tensor(BACKGROUNDS[scene.background[0]]).view(3, 1, 1, 1) / 127.5 - 1
    back = first.expand(3, 1, h, w)
    if scene.split is not None:
        second = torch.tensor(BACKGROUNDS[scene.background[1]]).view(3, 1, 1, 1) / 127.5 - 1
        here = (xs > width / 2) if scene.split == "vertical" else (ys > height / 2)
        back = torch.where(here.expand(1, h, w), second, back)
    fore = torch.tensor(COLOURS[scene.colour]).view(3, 1, 1, 1) / 127.5 - 1
    return (back + alpha * (fore - back)).contiguous()
