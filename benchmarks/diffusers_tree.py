"""A model's transformer and VAE written as diffusers reads them, so that both run the same weights."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..quantize.architecture import TransformerConfig
from ..quantize.convert import QuantizeOptions, run_quantize
from ..quantize.readers.keymap import diffusers_recipe
from ..quantize.readers.tensor_file import TensorInfo
from ..quantize.source import open_transformer
from ..quantize.writer import write_safetensors
from .make_full_size import write_json

WEIGHTS = "diffusion_pytorch_model.safetensors"


def write_diffusers_tree(model: Path, folder: Path) -> None:
    """`folder`/transformer and `folder`/vae, fp32, from a model that hvlite reads."""
    _write_transformer(model, folder / "transformer")
    run_quantize(QuantizeOptions(model, folder / "hvlite", vae="fp32", parts=("vae",)))
    (folder / "hvlite" / "vae").rename(folder / "vae")  # diffusers opens it as it is


def _write_transformer(model: Path, folder: Path) -> None:
    folder.mkdir(parents=True)
    with open_transformer(model) as source:
        named = dict(_respelled(source.config, ((name, source.read(name)) for name in source.names())))
        write_json(folder / "config.json", diffusers_config(source.config))
    tensors = {name: tensor.to(torch.float32).contiguous() for name, tensor in named.items()}
    layout = {name: TensorInfo("F32", tuple(tensor.shape)) for name, tensor in tensors.items()}
    write_safetensors(folder / WEIGHTS, layout, iter(tensors.items()))


def _respelled(config: TransformerConfig, tensors: Iterator[tuple[str, Tensor]]) -> Iterator[tuple[str, Tensor]]:
    """Every tensor under diffusers' names: fused projections split, shift and scale of the last layer swapped."""
    for name, tensor in tensors:
        recipe = diffusers_recipe(name)
        if recipe.kind == "rows":
            shapes = recipe.part_shapes(tuple(tensor.shape), config.hidden_size)
            yield from zip(recipe.sources, tensor.split([shape[0] for shape in shapes]), strict=True)
        elif recipe.kind == "swap_halves":
            yield recipe.sources[0], torch.cat(tensor.chunk(2)[::-1])
        else:
            yield recipe.sources[0], tensor


def diffusers_config(config: TransformerConfig) -> dict[str, Any]:
    """The fields of diffusers' config.json for this architecture."""
    return {
        "_class_name": "HunyuanVideoTransformer3DModel",
        "in_channels": config.in_channels,
        "out_channels": config.out_channels,
        "num_attention_heads": config.heads_num,
        "attention_head_dim": config.head_dim,
        "num_layers": config.mm_double_blocks_depth,
        "num_single_layers": config.mm_single_blocks_depth,
        "num_refiner_layers": config.refiner_depth,
        "mlp_ratio": config.mlp_width_ratio,
        "patch_size": config.patch_size[1],
        "patch_size_t": config.patch_size[0],
        "qk_norm": "rms_norm",
        "guidance_embeds": config.guidance_embed,
        "text_embed_dim": config.text_states_dim,
        "pooled_projection_dim": config.text_states_dim_2,
        "rope_theta": config.rope_theta,
        "rope_axes_dim": list(config.rope_dim_list or ()),
    }
