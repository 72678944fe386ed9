"""Tile arithmetic: the kept parts of all tiles make up the whole, once, for any size and overlap."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hvlite.errors import ConfigError
from hvlite.lite.models.vae_tiles import decode_chunks, encode_tiled
from hvlite.lite.tiling import SPACE_RATIO, TIME_RATIO, TileSpec, space_tiles, time_tiles

SPECS = st.builds(
    TileSpec,
    height=st.integers(2, 9),
    width=st.integers(2, 9),
    frames=st.integers(2, 6),
    overlap=st.sampled_from([0.0, 0.25, 0.3, 0.5]),
)


def fake_decode(latents: torch.Tensor) -> torch.Tensor:
    """A decoder of the right shape whose pixels carry their latent's value."""
    video = latents.repeat_interleave(SPACE_RATIO, 3).repeat_interleave(SPACE_RATIO, 4)
    return torch.cat([video[:, :, :1], video[:, :, 1:].repeat_interleave(TIME_RATIO, 2)], dim=2)


def fake_encode(video: torch.Tensor) -> torch.Tensor:
    return video[:, :, ::TIME_RATIO, ::SPACE_RATIO, ::SPACE_RATIO].clone()


@settings(max_examples=150, deadline=None)
@given(spec=SPECS, frames=st.integers(1, 14), height=st.integers(1, 20), width=st.integers(1, 20))
def test_tiled_decode_covers_every_pixel_once(spec, frames, height, width):
    latents = torch.arange(frames * height * width, dtype=torch.float32).view(1, 1, frames, height, width)
    tiled = torch.cat(list(decode_chunks(fake_decode, latents, spec)), dim=2)
    torch.testing.assert_close(tiled, fake_decode(latents), rtol=1e-5, atol=1e-2)


@settings(max_examples=75, deadline=None)
@given(spec=SPECS, frames=st.integers(0, 8), height=st.integers(1, 12), width=st.integers(1, 12))
def test_tiled_encode_covers_every_latent_once(spec, frames, height, width):
    shape = (1, 1, 4 * frames + 1, SPACE_RATIO * height, SPACE_RATIO * width)
    video = torch.linspace(0, 1, torch.Size(shape).numel()).view(shape)
    torch.testing.assert_close(encode_tiled(fake_encode, video, spec), fake_encode(video))


def test_official_geometry():
    tile = TileSpec()
    rows, columns = space_tiles(90, 160, tile, up=SPACE_RATIO)
    assert rows.starts == (0, 24, 48, 72)
    assert (rows.keep, rows.blend) == (192, 64)
    assert columns.starts == (0, 24, 48, 72, 96, 120, 144)
    time = time_tiles(33, tile, up=TIME_RATIO)
    assert time.starts == (0, 12, 24)
    assert (time.keep, time.blend) == (48, 16)


def test_both_sides_split_as_soon_as_one_is_longer_than_its_tile():
    rows, columns = space_tiles(32, 33, TileSpec())
    assert rows.starts == (0, 24)
    assert columns.starts == (0, 24)
    rows, columns = space_tiles(32, 32, TileSpec())
    assert rows.starts == columns.starts == (0,)


@pytest.mark.parametrize("wrong", [{"overlap": 1.0}, {"overlap": -0.1}, {"height": 0}, {"frames": 1, "overlap": 0.5}])
def test_impossible_tiles_are_refused(wrong):
    with pytest.raises(ConfigError):
        TileSpec(**wrong)
