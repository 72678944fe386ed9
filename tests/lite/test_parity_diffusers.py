"""The same weights through diffusers and through hvlite, at shapes the recorded outputs do not have."""

from __future__ import annotations

import pytest
import torch

from hvlite import TileSpec, load_transformer, load_vae

pytest.importorskip("diffusers", reason="the test extra has it")


@torch.no_grad()
@pytest.mark.parametrize(("grid", "lengths"), [((2, 6, 4), (7,)), ((1, 4, 10), (3, 11)), ((4, 2, 2), (1,))])
def test_transformer(golden, compare, grid, lengths):
    from diffusers import HunyuanVideoTransformer3DModel

    theirs = HunyuanVideoTransformer3DModel.from_pretrained(golden / "ckpts_diffusers/transformer").float().eval()
    ours = load_transformer(golden / "ckpts_diffusers")
    generator = torch.Generator().manual_seed(5)
    batch, longest = len(lengths), max(lengths)
    latents = torch.randn(batch, 16, *grid, generator=generator)
    timestep = torch.full((batch,), 431.25)
    guidance = torch.full((batch,), 4500.0)
    states = torch.randn(batch, longest, 48, generator=generator)
    pooled = torch.randn(batch, 32, generator=generator)
    mask = (torch.arange(longest)[None] < torch.tensor(lengths)[:, None]).long()
    expected = theirs(
        hidden_states=latents,
        timestep=timestep,
        encoder_hidden_states=states,
        encoder_attention_mask=mask,
        pooled_projections=pooled,
        guidance=guidance,
        return_dict=False,
    )[0]
    out = ours(
        latents=latents,
        timestep=timestep,
        guidance=guidance,
        prompt_embeds=states,
        prompt_mask=mask,
        pooled_prompt_embeds=pooled,
    )
    # diffusers computes its timestep frequencies with the CPU's own fp32 exp: up to 1e-4 from the official values.
    compare(f"transformer against diffusers, latents {list(grid)}", out, expected, 2e-4)


@torch.no_grad()
def test_vae(golden, compare):
    from diffusers import AutoencoderKLHunyuanVideo

    theirs = AutoencoderKLHunyuanVideo.from_pretrained(golden / "ckpts_diffusers/vae").float().eval()
    theirs.use_framewise_decoding = theirs.use_framewise_encoding = False
    ours = load_vae(golden / "ckpts_diffusers")
    generator = torch.Generator().manual_seed(6)
    latents = torch.randn(1, 16, 4, 6, 3, generator=generator)
    compare("VAE decode against diffusers", ours.decode(latents), theirs.decode(latents).sample, 5e-5)
    video = torch.rand(1, 3, 13, 24, 40, generator=generator) * 2 - 1
    moments = theirs.encode(video).latent_dist.parameters
    compare("VAE encode against diffusers", ours.encode(video), moments, 5e-5)
    theirs.use_framewise_decoding, theirs.use_tiling = True, True
    theirs.tile_sample_min_height = theirs.tile_sample_min_width = 32
    theirs.tile_sample_stride_height = theirs.tile_sample_stride_width = 24
    theirs.tile_sample_min_num_frames, theirs.tile_sample_stride_num_frames = 16, 12
    latents = torch.randn(1, 16, 9, 6, 7, generator=generator)
    tiled = ours.decode(latents, tile=TileSpec(height=4, width=4, frames=4))
    compare("VAE tiled decode against diffusers", tiled, theirs.decode(latents).sample, 5e-5)
