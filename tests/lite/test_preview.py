from __future__ import annotations

import math
from pathlib import Path

import av
import pytest
import torch
import torch.nn.functional as F

from hvlite.errors import ConfigError
from hvlite.lite.card import LatentRgb
from hvlite.lite.output.preview import fit_latent_rgb, latents_to_rgb, write_preview


def known_fit(seed: int = 0) -> LatentRgb:
    values = torch.randn(3, 17, generator=torch.Generator().manual_seed(seed)) * 0.05
    return LatentRgb(
        weight=tuple(tuple(row[:16].tolist()) for row in values), bias=tuple((values[:, 16] + 0.5).tolist())
    )


def linear_video(latents: torch.Tensor, fit: LatentRgb) -> torch.Tensor:
    """A video in [-1, 1] whose every pixel follows the fit exactly."""
    rgb = torch.einsum("ck,nkthw->ncthw", torch.tensor(fit.weight), latents) + torch.tensor(fit.bias).reshape(
        3, 1, 1, 1
    )
    frames = torch.cat([rgb[:, :, :1], rgb[:, :, 1:].repeat_interleave(4, dim=2)], dim=2)
    return F.interpolate(frames, scale_factor=(1, 8, 8), mode="nearest") * 2 - 1


def test_a_linear_model_is_found_exactly() -> None:
    latents = torch.randn(2, 16, 3, 4, 6)
    fit = known_fit()
    found = fit_latent_rgb(latents, linear_video(latents, fit))
    assert torch.allclose(torch.tensor(found.weight), torch.tensor(fit.weight), atol=1e-5)
    assert torch.allclose(torch.tensor(found.bias), torch.tensor(fit.bias), atol=1e-5)


def test_the_fit_compares_with_the_mean_of_pixels_and_frames() -> None:
    latents = torch.randn(1, 16, 3, 4, 6)
    video = linear_video(latents, known_fit())
    ripple = torch.tensor([0.2, -0.2]).repeat(4)  # of mean zero over 8 pixels, and over 4 frames
    video[:, :, 1:] += ripple[:8].reshape(1, 1, 8, 1, 1)
    video += ripple[:8].repeat(6)
    found = fit_latent_rgb(latents, video)
    assert torch.allclose(torch.tensor(found.weight), torch.tensor(known_fit().weight), atol=1e-5)


def test_the_fit_of_dependent_channels_is_finite_and_right() -> None:
    latents = torch.randn(1, 16, 2, 4, 6)
    latents[:, 8:] = latents[:, :8]
    video = linear_video(latents, known_fit())
    found = fit_latent_rgb(latents, video)
    assert all(math.isfinite(value) for row in found.weight for value in row)
    assert torch.allclose(linear_video(latents, found), video, atol=1e-4)


def test_a_picture_has_one_frame() -> None:
    latents = torch.randn(4, 16, 1, 4, 6)
    found = fit_latent_rgb(latents, linear_video(latents, known_fit()))
    assert torch.allclose(torch.tensor(found.weight), torch.tensor(known_fit().weight), atol=1e-5)


def test_the_fit_refuses_videos_that_do_not_belong() -> None:
    with pytest.raises(ConfigError, match=r"\[1, 3, 5, 32, 32\]"):
        fit_latent_rgb(torch.zeros(1, 16, 2, 4, 4), torch.zeros(1, 3, 8, 32, 32))


def test_latents_to_rgb_follows_the_card() -> None:
    fit = known_fit()
    latents = torch.randn(16, 3, 4, 6)
    frames = latents_to_rgb(latents, fit)
    assert (frames.shape, frames.dtype) == ((3, 4, 6, 3), torch.uint8)
    colour = sum(fit.weight[1][k] * float(latents[k, 2, 3, 5]) for k in range(16)) + fit.bias[1]
    assert int(frames[2, 3, 5, 1]) == pytest.approx(255 * min(max(colour, 0), 1), abs=0.51)
    assert torch.equal(latents_to_rgb(latents[None], fit), frames)
    assert torch.equal(latents_to_rgb(latents * 1e6, fit).unique(), torch.tensor([0, 255], dtype=torch.uint8))


@pytest.mark.parametrize("shape", [(2, 16, 3, 4, 4), (4, 3, 8, 8), (16, 4, 4)])
def test_latents_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ConfigError):
        latents_to_rgb(torch.zeros(shape), known_fit())


@pytest.mark.parametrize(("length", "pictures"), [(1, 1), (3, 3), (9, 4)])
def test_a_preview_is_a_strip_of_enlarged_latent_frames(tmp_path: Path, length: int, pictures: int) -> None:
    latents = torch.randn(1, 16, length, 4, 6)
    write_preview(tmp_path / "preview.png", latents, known_fit())
    packet = av.Packet((tmp_path / "preview.png").read_bytes())
    strip = torch.from_numpy(av.CodecContext.create("png", "r").decode(packet)[0].to_ndarray(format="rgb24"))
    assert strip.shape == (4 * 8 + 8, pictures * (6 * 8 + 4) + 4, 3)
    frames = latents_to_rgb(latents, known_fit())
    assert torch.equal(strip[4 : 4 + 32 : 8, 4 : 4 + 48 : 8], frames[0])
    assert torch.equal(strip[11 : 11 + 32 : 8, -4 - 48 + 7 :: 8][:, :6], frames[-1])
