"""What a video of the demo's kind shows: colour, shape, motion and background, read off its frames alone.

Pixels are matched with the palette, the shape's mask with drawn templates, and its centre's path with the motions.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from .data import BACKGROUNDS, COLOURS, DIRECTIONS, SHAPES, Scene, signed_distance

# area of each shape in units of its radius squared
AREA = {"circle": math.pi, "square": 3.24, "triangle": 2.546, "star": 2.351}
LEAST_SHARE = 0.004  # of the pixels: a smaller shape is no shape
STILL_PIXELS = 5.0
GROWTH = 1.6


@dataclass(frozen=True)
class Seen:
    """What was recognised. None where nothing was; `overlap` is the IoU of the mask with the best shape's template."""

    colour: str | None
    shape: str | None
    motion: str | None
    background: frozenset[str]
    overlap: float


@dataclass(frozen=True)
class Score:
    """Which of the asked-for things were seen."""

    colour: bool
    shape: bool
    motion: bool
    background: bool

    @property
    def all_right(self) -> bool:
        return self.colour and self.shape and self.motion


def score(scene: Scene, frames: Tensor) -> Score:
    """Compare a video (uint8 [F, H, W, 3]) with the scene it should show."""
    seen = look(frames)
    return Score(
        seen.colour == scene.colour,
        seen.shape == scene.shape,
        seen.motion == scene.motion,
        seen.background == frozenset(scene.background),
    )


def look(frames: Tensor) -> Seen:
    """Recognise the content of frames, uint8 [F, H, W, 3]."""
    pixels = frames.float()
    colours, tones = _palette(COLOURS), _palette(BACKGROUNDS)
    labels = _nearest(pixels, torch.cat([colours, tones]))
    counts = torch.bincount(labels.flatten(), minlength=len(colours) + len(tones))
    shares = counts[len(colours) :] / counts.sum()
    present = [i for i, share in enumerate(shares) if share >= 0.1] or [int(shares.argmax())]
    background = frozenset(list(BACKGROUNDS)[i] for i in present)
    best = int(counts[: len(colours)].argmax())
    if counts[best] < LEAST_SHARE * counts.sum():
        return Seen(None, None, None, background, 0.0)
    actual = pixels[labels == best].mean(dim=0, keepdim=True)
    mask = _nearest(pixels, torch.cat([actual, tones[present]])) == 0
    shape, overlap = _shape(mask)
    return Seen(list(COLOURS)[best], shape, _motion(mask), background, overlap)


def _palette(named: dict[str, tuple[int, int, int]]) -> Tensor:
    return torch.tensor(list(named.values()), dtype=torch.float32)


def _nearest(pixels: Tensor, palette: Tensor) -> Tensor:
    return (pixels[..., None, :] - palette).square().sum(dim=-1).argmin(dim=-1)


def _shape(mask: Tensor) -> tuple[str | None, float]:
    """The shape whose template, of equal centre and area, overlaps best on average."""
    areas = mask.sum(dim=(1, 2))
    visible = [t for t in range(len(mask)) if areas[t] >= 40]
    if not visible:
        return None, 0.0
    some = visible[:: max(1, len(visible) // 8)]
    overlaps = {name: sum(_overlap(mask[t], name) for t in some) / len(some) for name in SHAPES}
    best = max(overlaps, key=lambda name: overlaps[name])
    return best, overlaps[best]


def _overlap(mask: Tensor, shape: str) -> float:
    height, width = mask.shape
    ys, xs = torch.arange(height).view(-1, 1) + 0.5, torch.arange(width).view(1, -1) + 0.5
    area = mask.sum()
    cy, cx = (mask * ys).sum() / area, (mask * xs).sum() / area
    template = signed_distance(shape, xs - cx, ys - cy, (area / AREA[shape]).sqrt()) < 0
    return float((template & mask).sum() / (template | mask).sum())


def _motion(mask: Tensor) -> str | None:
    areas = mask.sum(dim=(1, 2))
    if len(mask) == 1 or bool((areas < 15).any()):
        return "still" if len(mask) == 1 else None
    ys, xs = torch.arange(mask.shape[1]).view(1, -1, 1) + 0.5, torch.arange(mask.shape[2]).view(1, 1, -1) + 0.5
    y, x = (mask * ys).sum(dim=(1, 2)) / areas, (mask * xs).sum(dim=(1, 2)) / areas
    growth = float(areas[-2:].sum() / areas[:2].sum())
    if not 1 / GROWTH < growth < GROWTH:
        return "grow" if growth > 1 else "shrink"
    dx, dy = float(x[-2:].mean() - x[:2].mean()), float(y[-2:].mean() - y[:2].mean())
    # a bounce goes up and down much more than it gets anywhere
    if float(y[::2].diff().abs().sum()) > 1.6 * abs(dy) + 8:
        return "bounce"
    if math.hypot(dx, dy) < STILL_PIXELS:
        return "still"
    return max(DIRECTIONS, key=lambda name: _alignment(DIRECTIONS[name], dx, dy))


def _alignment(direction: tuple[int, int], dx: float, dy: float) -> float:
    return (direction[0] * dx + direction[1] * dy) / math.hypot(*direction)
