"""Training batches: latents with captions of equal length, since the transformer takes no padded text.

Every video has several captions; a batch draws from one bucket of (canvas, caption length), buckets by their size.
"""

from __future__ import annotations

import random
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from . import captions, data, vocabulary
from .encode import Canvas
from .model import CLIP_END_ID


@dataclass(frozen=True)
class Batch:
    """latents [B, 16, T, H, W]; llm_ids [B, L]; clip_ids [B, M]; shown [B, 1, T, H, W]: 1 where the shape is."""

    latents: Tensor
    llm_ids: Tensor
    clip_ids: Tensor
    shown: Tensor


class Batches:
    """All encoded videos in memory, with `captions_each` captions for each. `empty` of the batches have no caption."""

    def __init__(self, files: list[Path], mean: Tensor, std: Tensor, tokenizers: Path, rng: random.Random) -> None:
        self.llm, self.clip = vocabulary.load(tokenizers)
        self.rng = rng
        self.latents: dict[Canvas, Tensor] = {}
        self.shown: dict[Canvas, Tensor] = {}
        self.buckets: dict[tuple[Canvas, int], list[tuple[int, tuple[int, ...], tuple[int, ...]]]] = defaultdict(list)
        parts = [torch.load(path, weights_only=True) for path in files]
        for canvas in parts[0]:
            scenes = [data.Scene(*fields) for part in parts for fields in part[canvas][0]]
            latents = torch.cat([part[canvas][1] for part in parts]).float()
            self.latents[canvas] = (latents - mean.view(1, -1, 1, 1, 1)) / std.view(1, -1, 1, 1, 1)
            self.shown[canvas] = torch.stack([shape_cells(scene, canvas) for scene in scenes])
            self._caption(canvas, scenes)
        self.keys = list(self.buckets)
        self.weights = [len(self.buckets[key]) for key in self.keys]

    def _caption(self, canvas: Canvas, scenes: list[data.Scene], captions_each: int = 14) -> None:
        for index, scene in enumerate(scenes):
            for _ in range(captions_each):
                text = captions.caption(scene, self.rng)
                llm, clip = self.llm.encode(text).ids, self.clip.encode(text).ids
                self.buckets[canvas, len(llm)].append((index, llm, clip))

    def draw(self, size: int, empty: float = 0.1) -> Batch:
        """A random batch."""
        canvas, _ = key = self.rng.choices(self.keys, self.weights)[0]
        items = self.rng.choices(self.buckets[key], k=size)
        if self.rng.random() < empty:
            llm, clip = self.llm.encode("").ids, self.clip.encode("").ids
            items = [(index, llm, clip) for index, _, _ in items]
        indices = [index for index, _, _ in items]
        longest = max(len(clip) for _, _, clip in items)
        clip_ids = [[*clip, *[CLIP_END_ID] * (longest - len(clip))] for _, _, clip in items]
        return Batch(
            self.latents[canvas][indices],
            torch.tensor([llm for _, llm, _ in items]),
            torch.tensor(clip_ids),
            self.shown[canvas][indices],
        )


def shape_cells(scene: data.Scene, canvas: Canvas) -> Tensor:
    """1 in the latent cells that the shape touches, else 0: [1, T, H/8, W/8]."""
    frames, height, width = canvas
    rows = []
    for x, y, radius in data.path(scene, frames, height, width):
        ys, xs = torch.arange(height // 8).view(-1, 1) * 8 + 4, torch.arange(width // 8).view(1, -1) * 8 + 4
        reach = 1.4 * radius + 4
        rows.append((((xs - x).abs() < reach) & ((ys - y).abs() < reach)).float())
    per_frame = torch.stack(rows)[None, None]
    first, rest = per_frame[:, :, :1], per_frame[:, :, 1:]
    if frames > 1:
        rest = F.max_pool3d(rest, (4, 1, 1))
        return torch.cat([first, rest], dim=2)[0]
    return first[0]
