"""Two videos of one size, frame by frame: the figures of `hvlite compare`, and a sheet of both side by side."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..charts.plotting_library import font_file
from ..errors import ConfigError
from ..lite.output.pictures import contact_sheet, write_png
from ..lite.output.video_read import read_video
from .metrics import flicker, flicker_between, lpips_distance, psnr_db, ssim

SHEET_FRAMES = 6
SHEET_SIDE = 320  # of a frame on the sheet, in pixels, at most
LEAST_WIDTH = 120  # of a frame on the sheet
LABEL_HEIGHT, LABEL_SIZE = 24, 13
GAP = 4  # beside a text
DIFFERENCE_GAIN = 4
DIFFERENCE_NAME = f"difference, {DIFFERENCE_GAIN} times enlarged around grey"


@dataclass(frozen=True)
class Comparison:
    """PSNR in dB (None: equal), SSIM, flicker 0..255. `worst_frame` counts from 0."""

    frames: int
    height: int
    width: int
    psnr_db: float | None
    psnr_worst_db: float | None
    worst_frame: int
    ssim: float
    ssim_worst: float
    flicker_first: float
    flicker_second: float
    flicker_between: float
    lpips: float | None
    lpips_note: str = ""

    def to_json(self) -> dict[str, Any]:
        """Plain JSON; null where the videos are equal (PSNR) or nothing was computed (LPIPS)."""
        return asdict(self)

    def text(self) -> str:
        """For people."""
        psnr = "equal" if self.psnr_db is None else f"{self.psnr_db:.2f} dB"
        worst = "equal" if self.psnr_worst_db is None else f"{self.psnr_worst_db:.2f} dB (frame {self.worst_frame})"
        return "\n".join(
            (
                f"{self.frames} frames of {self.height}x{self.width}",
                f"PSNR     {psnr}, worst {worst}",
                f"SSIM     {self.ssim:.5f}, worst {self.ssim_worst:.5f}",
                f"LPIPS    {self.lpips_note or f'{self.lpips:.5f}'}",
                f"flicker  {self.flicker_first:.3f} and {self.flicker_second:.3f}; added {self.flicker_between:.3f}",
            )
        )


def compare_files(first: Path, second: Path, sheet: Path | None = None) -> Comparison:
    """Compare two videos; with `sheet` also draw them there. ConfigError where size or length differ."""
    one, other = (read_video(path)[0] for path in (first, second))
    _check_same(first, one, second, other)
    if sheet is not None:
        write_png(sheet, draw_sheet(one, other, (first.name, second.name)))
    return compare_frames(one, other)


def compare_frames(one: Tensor, other: Tensor) -> Comparison:
    """Frames uint8 [F, H, W, 3] of both."""
    psnrs = [psnr_db(a, b) for a, b in zip(one, other, strict=True)]
    ssims = [ssim(a, b) for a, b in zip(one, other, strict=True)]
    distance, note = lpips_distance(one, other)
    return Comparison(
        frames=one.shape[0],
        height=one.shape[1],
        width=one.shape[2],
        psnr_db=_finite(psnr_db(one, other)),
        psnr_worst_db=_finite(min(psnrs)),
        worst_frame=psnrs.index(min(psnrs)),
        ssim=mean(ssims),
        ssim_worst=min(ssims),
        flicker_first=flicker(one),
        flicker_second=flicker(other),
        flicker_between=flicker_between(one, other),
        lpips=distance,
        lpips_note=note,
    )


def draw_sheet(one: Tensor, other: Tensor, names: tuple[str, str]) -> Tensor:
    """A row of frames of each and a row of their differences, four times enlarged around grey: uint8 [H, W, 3]."""
    picked = torch.linspace(0, one.shape[0] - 1, min(SHEET_FRAMES, one.shape[0])).round().long().tolist()
    difference = torch.stack([_difference(one[index], other[index]) for index in picked])
    sheet = []
    for name, frames in zip((*names, DIFFERENCE_NAME), (one[picked], other[picked], difference), strict=True):
        row = contact_sheet([_fitting(frame) for frame in frames], len(picked))
        sheet += [_strip([name], row.shape[1]), row]
    numbers = _strip([f"frame {index}" for index in picked], sheet[1].shape[1])
    width = max(piece.shape[1] for piece in (numbers, *sheet))
    return torch.cat([_padded(piece, width) for piece in (numbers, *sheet)])


def _difference(one: Tensor, other: Tensor) -> Tensor:
    return (128 + DIFFERENCE_GAIN * (other.int() - one.int())).clamp(0, 255).to(torch.uint8)


def _fitting(picture: Tensor) -> Tensor:
    """Every step-th pixel of a large frame: cheap, and noise stays visible. The pixels of a small one are enlarged."""
    step = math.ceil(max(picture.shape[:2]) / SHEET_SIDE)
    times = math.ceil(LEAST_WIDTH / picture.shape[1])
    return picture[::step, ::step].repeat_interleave(times, 0).repeat_interleave(times, 1)


def _strip(texts: list[str], width: int) -> Tensor:
    """White uint8 [LABEL_HEIGHT, W, 3] with texts at equal distances, as wide as the last one needs."""
    from PIL import Image, ImageDraw, ImageFont

    font = ImageFont.truetype(font_file(), LABEL_SIZE)  # the one Pillow brings has no accents
    places = [GAP + (width - GAP) * index // len(texts) for index in range(len(texts))]
    needed = places[-1] + math.ceil(font.getlength(texts[-1])) + GAP
    strip = Image.new("RGB", (max(width, needed), LABEL_HEIGHT), "white")
    for x, text in zip(places, texts, strict=True):
        ImageDraw.Draw(strip).text((x, LABEL_HEIGHT // 2), text, fill="#333333", font=font, anchor="lm")
    return torch.from_numpy(np.array(strip))


def _padded(piece: Tensor, width: int) -> Tensor:
    return torch.nn.functional.pad(piece, (0, 0, 0, width - piece.shape[1]), value=255)


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _check_same(first: Path, one: Tensor, second: Path, other: Tensor) -> None:
    if one.shape[1:3] != other.shape[1:3]:
        sizes = [f"{path} is {frames.shape[1]}x{frames.shape[2]}" for path, frames in ((first, one), (second, other))]
        raise ConfigError(", ".join(sizes), hint="only videos of one size can be compared")
    if len(one) != len(other):
        raise ConfigError(
            f"{first} has {len(one)} frames, {second} has {len(other)}",
            hint="only videos of one length can be compared; one of them may be partial",
        )
