"""Named tensors of any source -> a model on the meta device -> its weights bound, one at a time, strictly checked."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn

from ..errors import CheckpointError
from ..quantize.source import AnySource, HvliteSource, ModelFiles, check_finite, locate, open_transformer, open_vae
from .arithmetic import DEQUANTIZE, LinearArithmetic, choose_arithmetic, kernel_capability
from .card import load_card
from .models.linear import bind_quantized
from .models.transformer import HunyuanVideoTransformer
from .models.vae import AutoencoderKLCausal3D
from .text import TextEncoders
from .text import load_text_encoders as bind_text_encoders

ModuleT = TypeVar("ModuleT", bound=nn.Module)


def load_transformer(
    path: Path | str | ModelFiles,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = None,
    config: Mapping[str, Any] | None = None,
    linear: str | LinearArithmetic = "auto",
) -> HunyuanVideoTransformer:
    """The transformer of a model folder (official, diffusers, hvlite) or of a single file, ready for inference.

    `config` holds official field names (`rope_dim_list`, `heads_num`, ...), wins over a config.json beside the
    weights, and must not contradict the shapes. `dtype` None: fp32 on a CPU, bf16 on a GPU. Weights stored in fp8
    are dequantized; those of an hvlite folder stay codes in memory, and `linear` says how they are multiplied (see
    `choose_arithmetic`). Raises CheckpointError (naming file and tensor) or ConfigError.
    """
    device = torch.device(device)
    with open_transformer(_located(path), config=config) as source:
        with torch.device("meta"):
            model = HunyuanVideoTransformer(source.config)
        default = torch.float32 if device.type == "cpu" else torch.bfloat16
        chosen = choose_arithmetic(linear, kernel_capability(device)) if isinstance(linear, str) else linear
        return bind(model, source, device, dtype or default, chosen)


def load_vae(
    path: Path | str | ModelFiles, device: torch.device | str = "cpu", dtype: torch.dtype | None = None
) -> AutoencoderKLCausal3D:
    """The VAE of a model folder or of a single file. `dtype` None: fp32 on a CPU, fp16 on a GPU."""
    device = torch.device(device)
    with open_vae(_located(path)) as source:
        with torch.device("meta"):
            model = AutoencoderKLCausal3D(source.config)
        default = torch.float32 if device.type == "cpu" else torch.float16
        return bind(model, source, device, dtype or default)


def load_text_encoders(
    path: Path | str, device: torch.device | str = "cpu", dtype: torch.dtype | None = None
) -> TextEncoders:
    """Both text encoders of a model folder, with the templates of its card. `dtype` None: fp32 on a CPU, else fp16."""
    device = torch.device(device)
    default = torch.float32 if device.type == "cpu" else torch.float16
    return bind_text_encoders(locate(path), load_card(Path(path)), device=device, dtype=dtype or default)


def bind(
    model: ModuleT,
    source: AnySource,
    device: torch.device,
    dtype: torch.dtype,
    arithmetic: LinearArithmetic = DEQUANTIZE,
) -> ModuleT:
    """Give every parameter of `model` (on the meta device) its tensor of `source`: never two copies of the model."""
    quantized = bind_quantized(model, source, device, arithmetic) if isinstance(source, HvliteSource) else set()
    wanted = dict(model.named_parameters())
    for name in source.names():
        if name in quantized:
            continue
        parameter = wanted.pop(name, None)
        if parameter is None or parameter.shape != source.info(name).shape:
            raise CheckpointError(
                f"{source.paths[0]}: tensor {name} {list(source.info(name).shape)} has no place in the model",
                hint="this is a fault of hvlite's architecture table: please report it",
            )
        tensor = source.read_dequantized(name, dtype)
        check_finite(tensor, name, source.paths[0])
        owner, _, attribute = name.rpartition(".")
        setattr(model.get_submodule(owner), attribute, nn.Parameter(tensor.to(device), requires_grad=False))
    if wanted:
        raise CheckpointError(
            f"{source.paths[0]}: no weights for {', '.join(sorted(wanted)[:3])}",
            hint="the file is incomplete: download it again",
        )
    return model.eval()


def _located(path: Path | str | ModelFiles) -> ModelFiles:
    return path if isinstance(path, ModelFiles) else locate(path)
