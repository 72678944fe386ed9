"""How far two videos are apart: PSNR, SSIM, temporal flicker; LPIPS where that package is installed.

Frames are uint8 [F, H, W, 3] on the CPU. Everything is computed frame by frame, so a long video takes no more memory.
"""

from __future__ import annotations

import math
from importlib.util import find_spec
from itertools import pairwise
from statistics import mean
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

LARGEST = 255.0
# Wang, Bovik, Sheikh, Simoncelli 2004, "Image quality assessment": their window and constants.
SSIM_WINDOW, SSIM_SIGMA = 11, 1.5
SSIM_C1, SSIM_C2 = (0.01 * LARGEST) ** 2, (0.03 * LARGEST) ** 2
LUMA = (0.2126, 0.7152, 0.0722)  # BT.709


def psnr_db(one: Tensor, other: Tensor) -> float:
    """Of one frame or several, over all of their values; infinite for equal ones."""
    error = float((one.double() - other.double()).square().mean())
    return math.inf if error == 0 else 10 * math.log10(LARGEST**2 / error)


def ssim(one: Tensor, other: Tensor) -> float:
    """Of two frames uint8 [H, W, 3], on luma: 1 for equal ones. A side shorter than 11 shrinks the window to it."""
    x, y = (_luma(frame)[None, None] for frame in (one, other))
    kernel = _gaussian(min(SSIM_WINDOW, *x.shape[2:]))
    means = [F.conv2d(each, kernel) for each in (x, y, x * x, y * y, x * y)]
    mean_x, mean_y, square_x, square_y, product = means
    variance_x, variance_y = square_x - mean_x**2, square_y - mean_y**2
    covariance = product - mean_x * mean_y
    structure = (2 * covariance + SSIM_C2) / (variance_x + variance_y + SSIM_C2)
    luminance = (2 * mean_x * mean_y + SSIM_C1) / (mean_x**2 + mean_y**2 + SSIM_C1)
    return float((luminance * structure).mean())


def flicker(frames: Tensor) -> float:
    """Mean absolute change of luma from a frame to the next, 0..255; 0 for a single frame."""
    changes = [float((_luma(after) - _luma(before)).abs().mean()) for before, after in _pairs(frames)]
    return mean(changes) if changes else 0.0


def flicker_between(one: Tensor, other: Tensor) -> float:
    """The same of what `other` adds to `one`: motion that both have does not count."""
    changes = [
        float(((_luma(b1) - _luma(b0)) - (_luma(a1) - _luma(a0))).abs().mean())
        for (a0, a1), (b0, b1) in zip(_pairs(one), _pairs(other), strict=True)
    ]
    return mean(changes) if changes else 0.0


def lpips_distance(one: Tensor, other: Tensor) -> tuple[float | None, str]:
    """Learned perceptual distance (AlexNet), mean over frames; None and the reason where it cannot be computed."""
    if find_spec("lpips") is None:
        return None, "not installed (pip install lpips)"
    try:
        import lpips  # type: ignore[import-not-found]  # optional, and asked for by name only here

        network: Any = lpips.LPIPS(net="alex", verbose=False)
    except (ImportError, OSError) as error:  # its backbone is downloaded on first use
        return None, f"lpips does not start: {error}"
    with torch.no_grad():
        distances = [float(network(_signed(a), _signed(b))) for a, b in zip(one, other, strict=True)]
    return mean(distances), ""


def _luma(frame: Tensor) -> Tensor:
    return frame.double() @ torch.tensor(LUMA, dtype=torch.float64)


def _gaussian(size: int) -> Tensor:
    """A normalised window [1, 1, size, size]."""
    positions = torch.arange(size, dtype=torch.float64) - (size - 1) / 2
    weights = torch.exp(-positions.square() / (2 * SSIM_SIGMA**2))
    window = weights[:, None] * weights[None, :]
    return (window / window.sum())[None, None]


def _pairs(frames: Tensor) -> list[tuple[Tensor, Tensor]]:
    return list(pairwise(frames))


def _signed(frame: Tensor) -> Tensor:
    """[1, 3, H, W] in -1..1, as LPIPS takes it."""
    return (frame.permute(2, 0, 1)[None].float() / 127.5) - 1
