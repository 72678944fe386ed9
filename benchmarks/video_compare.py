"""Two videos of one size, frame by frame: the figures of `hvlite compare`, and a sheet of both side by side."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from torch import Tensor

from ..errors import ConfigError
from ..lite.output.pictures import contact_sheet, write_png
from ..lite.output.video_read import read_video
from ..quantize.canvas import text_width, write
from .metrics import flicker, flicker_between, lpips_distance, psnr_db, ssim

SHEET_FRAMES = 6
SHEET_SIDE = 320  # of a frame on the sheet, in pixels, at most
LABEL_HEIGHT = 22
DIFFERENCE_GAIN = 4


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
    step = math.ceil(max(one.shape[1:3]) / SHEET_SIDE)
    rows = []
    for name, frames in ((names[0], one), (names[1], other), (f"difference x{DIFFERENCE_GAIN}", None)):
        pictures = [frames[index] if frames is not None else _difference(one[index], other[index]) for index in picked]
        rows += [
            _label(name, picked, pictures[0].shape[1] // step),
            contact_sheet(_smaller(pictures, step), len(picked)),
        ]
    width = max(row.shape[1] for row in rows)
    return torch.cat([_padded(row, width) for row in rows])


def _difference(one: Tensor, other: Tensor) -> Tensor:
    return (128 + DIFFERENCE_GAIN * (other.int() - one.int())).clamp(0, 255).to(torch.uint8)


def _smaller(pictures: list[Tensor], step: int) -> list[Tensor]:
    """Every step-th pixel: cheap, and noise stays visible."""
    return [picture[::step, ::step] for picture in pictures]


def _label(name: str, picked: list[int], width: int) -> Tensor:
    text = f"{name}: frames {', '.join(map(str, picked))}"
    strip = torch.full((LABEL_HEIGHT, max(text_width(text) + 8, width), 3), 255, dtype=torch.uint8)
    write(strip.numpy(), text, 6, 7)
    return strip


def _padded(row: Tensor, width: int) -> Tensor:
    out = torch.full((row.shape[0], width, 3), 255, dtype=torch.uint8)
    out[:, : row.shape[1]] = row
    return out


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
