"""What latents look like, roughly and at once: a linear fit from latent channels to colours, at an eighth of the size.

The fit is computed for the model it is used with (`fit_latent_rgb`) and travels in its card; it is not guessed.
"""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from ...errors import ConfigError
from ..card import LATENT_CHANNELS, LatentRgb
from .pictures import contact_sheet, write_png

FRAMES_A_LATENT = 4  # the first latent frame is one frame of video, each later one four
PIXELS_A_LATENT = 8


def latents_to_rgb(latents: Tensor, latent_rgb: LatentRgb) -> Tensor:
    """Latents as the transformer sees them, [16, T, H, W] or [1, 16, T, H, W], to uint8 [T, H, W, 3]."""
    latents = latents.squeeze(0) if latents.ndim == 5 else latents
    if latents.ndim != 4 or latents.shape[0] != LATENT_CHANNELS:
        raise ConfigError(f"latents are [{LATENT_CHANNELS}, T, H, W], not {list(latents.shape)}")
    weight = torch.tensor(latent_rgb.weight, dtype=torch.float32, device=latents.device)
    bias = torch.tensor(latent_rgb.bias, dtype=torch.float32, device=latents.device)
    rgb = torch.einsum("ck,kthw->thwc", weight, latents.float()) + bias
    return (rgb.clamp(0, 1) * 255).round().to(torch.uint8).cpu()


def write_preview(
    path: Path | str, latents: Tensor, latent_rgb: LatentRgb, *, pictures: int = 4, scale: int = PIXELS_A_LATENT
) -> None:
    """A PNG strip of at most `pictures` latent frames from first to last, each latent pixel `scale` pixels wide."""
    frames = latents_to_rgb(latents, latent_rgb)
    count = min(pictures, len(frames))
    chosen = torch.linspace(0, len(frames) - 1, count).round().long()
    enlarged = frames[chosen].repeat_interleave(scale, dim=1).repeat_interleave(scale, dim=2)
    write_png(Path(path), contact_sheet(list(enlarged), columns=count))


def fit_latent_rgb(latents: Tensor, videos: Tensor) -> LatentRgb:
    """The least-squares fit for latents [N, 16, T, H, W] (scaled, as the transformer sees them) of videos in [-1, 1].

    `videos`: [N, 3, F, 8H, 8W] with F = 4 (T - 1) + 1; each latent pixel is compared with the mean of the pixels and
    frames it stands for.
    """
    count, channels, length, height, width = latents.shape
    expected = (count, 3, FRAMES_A_LATENT * (length - 1) + 1, height * PIXELS_A_LATENT, width * PIXELS_A_LATENT)
    if channels != LATENT_CHANNELS or tuple(videos.shape) != expected:
        raise ConfigError(f"videos for latents {list(latents.shape)} are {list(expected)}, not {list(videos.shape)}")
    colours = _pooled(videos.float() / 2 + 0.5).movedim(1, -1).reshape(-1, 3).double()
    values = latents.movedim(1, -1).reshape(-1, channels).double()
    design = torch.cat([values, torch.ones_like(values[:, :1])], dim=1)
    solution = torch.linalg.lstsq(
        design, colours, driver="gelsd"
    ).solution.T.cpu()  # gelsd: also where channels are equal
    return LatentRgb(
        weight=tuple(tuple(row[:channels].tolist()) for row in solution), bias=tuple(solution[:, channels].tolist())
    )


def _pooled(videos: Tensor) -> Tensor:
    """[N, 3, F, 8H, 8W] to the means [N, 3, T, H, W]."""
    small = F.avg_pool3d(videos, (1, PIXELS_A_LATENT, PIXELS_A_LATENT))
    first, rest = small[:, :, :1], small[:, :, 1:]
    if not rest.shape[2]:
        return first
    return torch.cat([first, F.avg_pool3d(rest, (FRAMES_A_LATENT, 1, 1))], dim=2)
