"""The VAE against the official code: encode and decode, whole and tiled, from both trees."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from hvlite import TileSpec, load_vae
from hvlite.lite.models.vae import AutoencoderKLCausal3D

LIMIT = 5e-5
TILE = TileSpec(height=4, width=4, frames=4)


@pytest.fixture(scope="module", params=["ckpts_official", "ckpts_diffusers"])
def vae(request: pytest.FixtureRequest, golden: Path) -> tuple[str, AutoencoderKLCausal3D]:
    tree = request.param.removeprefix("ckpts_") + " tree"
    return tree, load_vae(golden / request.param)


@pytest.mark.parametrize("name", ["untiled", "image"])
@torch.no_grad()
def test_decode(golden, vae, compare, name):
    tree, model = vae
    case = load_file(golden / f"vae/dec_{name}.safetensors")
    compare(f"VAE decode {name}, {tree}", model.decode(case["in.z"]), case["out.decode"], LIMIT)


@pytest.mark.parametrize("name", ["tiled", "tiled_trailing1"])
@torch.no_grad()
def test_decode_tiled(golden, vae, compare, name):
    tree, model = vae
    case = load_file(golden / f"vae/dec_{name}.safetensors")
    compare(f"VAE decode {name}, {tree}", model.decode(case["in.z"], tile=TILE), case["out.tiled"], LIMIT)


@torch.no_grad()
def test_encode(golden, vae, compare):
    tree, model = vae
    case = load_file(golden / "vae/enc.safetensors")
    compare(f"VAE encode, {tree}", model.encode(case["in.x"].float()), case["out.moments"], LIMIT)


@torch.no_grad()
def test_encode_tiled(golden, vae, compare):
    tree, model = vae
    case = load_file(golden / "vae/enc_tiled.safetensors")
    compare(
        f"VAE encode tiled, {tree}", model.encode(case["in.x"].float(), tile=TILE), case["out.moments_tiled"], LIMIT
    )


@torch.no_grad()
def test_decoder_activations(golden, vae, compare):
    tree, model = vae
    case = load_file(golden / "vae/dec_untiled.safetensors")
    decoder = model.decoder
    modules = {
        "conv_in": decoder.conv_in,
        "mid_block": decoder.mid_block,
        "block0": decoder.up_blocks[0],
        "block1": decoder.up_blocks[1],
    }
    seen = {}
    handles = [
        module.register_forward_hook(lambda _m, _i, out, name=name: seen.__setitem__(name, out))
        for name, module in modules.items()
    ]
    try:
        model.decode(case["in.z"])
    finally:
        for handle in handles:
            handle.remove()
    for name, out in seen.items():
        compare(f"VAE decoder {name}, {tree}", out, case[f"act.dec.{name}"], LIMIT)


def test_the_official_tile_comes_from_the_config(golden):
    assert load_vae(golden / "ckpts_official").official_tile == TILE


@torch.no_grad()
def test_chunks_are_the_tiled_video(golden, vae):
    _, model = vae
    case = load_file(golden / "vae/dec_tiled_trailing1.safetensors")
    chunks = list(model.decode_chunks(case["in.z"], TILE))
    assert [chunk.shape[2] for chunk in chunks] == [13, 12]
    assert torch.equal(torch.cat(chunks, dim=2), model.decode(case["in.z"], tile=TILE))
