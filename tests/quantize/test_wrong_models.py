"""A file of another model or another part is named for what it is; so is a config that fits none."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from hvlite.errors import CheckpointError
from hvlite.quantize.source import open_text_encoder, open_text_encoder_2, open_transformer, open_vae

State = dict[str, torch.Tensor]


@pytest.fixture
def save(tmp_path: Path) -> Callable[[State], Path]:
    def write(state: State) -> Path:
        save_file({name: tensor.contiguous() for name, tensor in state.items()}, tmp_path / "model.safetensors")
        return tmp_path / "model.safetensors"

    return write


def refused(open_it: Callable[[Path], object], path: Path, *said: str) -> None:
    with pytest.raises(CheckpointError) as caught:
        open_it(path)
    for text in said:
        assert text in str(caught.value)


OTHER_MODELS = {
    "Wan": ["blocks.0.self_attn.q.weight", "patch_embedding.weight"],
    "Flux": ["double_blocks.0.img_attn.qkv.weight", "txt_in.weight", "single_blocks.0.modulation.lin.weight"],
    "Flux or": [
        "transformer_blocks.0.norm1_context.linear.weight",
        "transformer_blocks.0.attn.add_q_proj.weight",
        "x_embedder.weight",
    ],
    "HunyuanVideo-1.5": [
        "double_blocks.0.img_attn_qkv.weight",
        "txt_in.individual_token_refiner.blocks.0.norm1.weight",
        "vision_in.proj.0.weight",
    ],
    "HunyuanImage": [
        "double_blocks.0.img_attn_qkv.weight",
        "txt_in.individual_token_refiner.blocks.0.norm1.weight",
        "byt5_in.fc1.weight",
    ],
    "FramePack": ["transformer_blocks.0.attn.add_q_proj.weight", "clean_x_embedder.proj.weight"],
    "Stable Diffusion 3": ["model.diffusion_model.joint_blocks.0.x_block.attn.qkv.weight"],
    "Stable Diffusion, an": ["model.diffusion_model.input_blocks.0.0.weight"],
    "Qwen-Image": ["transformer_blocks.0.img_mod.1.weight"],
    "LTX-Video": ["patchify_proj.weight"],
    "CogVideoX": ["patch_embed.proj.weight", "transformer_blocks.0.attn1.to_q.weight"],
    "Mochi": ["blocks.0.attn.qkv_x.weight"],
    "a VAE": ["decoder.conv_in.conv.weight"],
    "a Llama": ["model.layers.0.self_attn.q_proj.weight"],
    "CLIP": ["text_model.encoder.layers.0.self_attn.q_proj.weight"],
    "T5": ["encoder.block.0.layer.0.SelfAttention.q.weight"],
    "a LoRA": [
        "diffusion_model.double_blocks.0.img_attn_qkv.lora_A.weight",
        "diffusion_model.double_blocks.0.img_attn_qkv.lora_B.weight",
    ],
    "kohya LoRA": ["lora_unet_double_blocks_0_img_attn_qkv.lora_down.weight"],
    "optimum-quanto": ["double_blocks.0.img_attn_qkv.weight._data"],
    "bitsandbytes": ["double_blocks.0.img_attn_qkv.weight.absmax"],
    "its 1 tensors are called x": ["x"],
}


@pytest.mark.parametrize("kind", OTHER_MODELS)
def test_other_models_are_recognized(save: Callable[[State], Path], kind: str) -> None:
    path = save({name: torch.zeros(1) for name in OTHER_MODELS[kind]})
    refused(open_transformer, path, str(path), kind.removeprefix("kohya "), "expected" if kind[0].isupper() else "")


@pytest.mark.parametrize(("channels", "said"), [(33, "latent concatenation"), (32, "SkyReels"), (17, "other inputs")])
def test_image_conditioned_models(
    save: Callable[[State], Path], transformer_state: State, channels: int, said: str
) -> None:
    wide = torch.zeros(64, channels, 1, 2, 2)
    refused(
        open_transformer, save(transformer_state | {"img_in.proj.weight": wide}), f"takes {channels} channels", said
    )


def test_the_wrong_part_is_named(golden: Path) -> None:
    tree = golden / "ckpts_official"
    transformer = golden / "dit" / "dit_official.safetensors"
    llama, clip = tree / "text_encoder" / "model.safetensors", tree / "text_encoder_2" / "model.safetensors"
    vae = tree / "hunyuan-video-t2v-720p" / "vae" / "pytorch_model.pt"
    for opener, others in (
        (open_transformer, {vae: "AutoencoderKLCausal3D", llama: "Llama", clip: "CLIP"}),
        (open_vae, {transformer: "VAE", llama: "Llama", clip: "CLIP"}),
        (open_text_encoder, {transformer: "Llama text encoder", vae: "a VAE", clip: "CLIP"}),
        (open_text_encoder_2, {transformer: "CLIP's text encoder", vae: "a VAE", llama: "Llama"}),
    ):
        for path, said in others.items():
            refused(opener, path, str(path.parent), said)  # type: ignore[arg-type]


VAE_CONFIGS: Iterable[tuple[dict[str, Any], str]] = [
    ({"_class_name": "AutoencoderKL"}, "AutoencoderKL"),
    ({"_class_name": "AutoencoderKLHunyuanVideo15"}, "AutoencoderKLHunyuanVideo15"),
    ({"block_out_channels": [4, 6, 8]}, "levels"),
    ({"block_out_channels": [128, 256, 512, 512]}, "conv_in"),
    ({"block_out_channels": "4"}, "block_out_channels"),
    ({"latent_channels": 4}, "conv_out"),
    ({"latent_channels": 10**9}, "latent_channels"),
    ({"layers_per_block": 3}, "missing"),
    ({"layers_per_block": True}, "layers_per_block"),
    ({"norm_num_groups": 3}, "norm_num_groups"),
    ({"act_fn": "gelu"}, "act_fn"),
    ({"scaling_factor": 0}, "scaling_factor"),
    ({"mid_block_add_attention": False}, "not expected"),
    ({"time_compression_ratio": 8}, "time compression"),
]


@pytest.mark.parametrize(("change", "said"), VAE_CONFIGS, ids=str)
def test_vae_config_that_is_wrong(golden: Path, tmp_path: Path, change: dict[str, Any], said: str) -> None:
    source = golden / "ckpts_official" / "hunyuan-video-t2v-720p" / "vae"
    shutil.copy(source / "pytorch_model.pt", tmp_path)
    config = json.loads((source / "config.json").read_text()) | change
    (tmp_path / "config.json").write_text(json.dumps(config))
    refused(open_vae, tmp_path, said)


def test_vae_names_that_are_wrong(save: Callable[[State], Path], vae_state: State) -> None:
    for name in list(vae_state)[::10]:
        refused(open_vae, save({other: tensor for other, tensor in vae_state.items() if other != name}), "")
    refused(open_vae, save({"encoder.down_blocks.0.resnets.0.conv1.weight": torch.zeros(1)}), "image model")


TEXT_CONFIGS: list[tuple[dict[str, Any], str]] = [
    ({"num_hidden_layers": 5}, "not expected"),
    ({"num_hidden_layers": 7}, "missing"),
    ({"num_hidden_layers": 10**9}, "num_hidden_layers"),
    ({"hidden_size": 47}, "shape"),
    ({"hidden_size": "48"}, "hidden_size"),
    ({"head_dim": "12"}, "head_dim"),
    ({"num_key_value_heads": 0}, "num_key_value_heads"),
    ({"vocab_size": 700}, "embed_tokens"),
    ({"intermediate_size": 1.5}, "intermediate_size"),
]


@pytest.mark.parametrize(("change", "said"), TEXT_CONFIGS, ids=str)
def test_text_config_that_is_wrong(golden: Path, tmp_path: Path, change: dict[str, Any], said: str) -> None:
    source = golden / "ckpts_official" / "text_encoder"
    shutil.copy(source / "model.safetensors", tmp_path)
    config = json.loads((source / "config.json").read_text()) | change
    (tmp_path / "config.json").write_text(json.dumps(config))
    refused(open_text_encoder, tmp_path, said)
