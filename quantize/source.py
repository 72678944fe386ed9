"""Reads HunyuanVideo checkpoints as others publish them, and the folders that `hvlite quantize` writes.

Official trees (`.pt`, no pickle is executed; the fp8 pair too), diffusers trees, single safetensors files with or
without prefixes, official, diffusers or ComfyUI names: always the same named tensors come out, lazily, checked
against the architecture's table.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeAlias

from .format import (
    HvliteSource,
    HvliteTextEncoder,
    HvliteTransformer,
    open_hvlite_text_encoder,
    open_hvlite_transformer,
)
from .readers import text_source, transformer_source
from .readers.locate import MANIFEST, ModelFiles, WeightFiles, existing, locate
from .readers.quantized_sources import Quantization
from .readers.shapes import expected_transformer_shapes, expected_vae_shapes
from .readers.tensor_file import TensorInfo
from .readers.text_source import TextSource, open_text_encoder_2
from .readers.transformer_source import TransformerSource
from .readers.vae_source import VaeSource, open_vae
from .readers.weight_source import WeightSource, check_finite

__all__ = [
    "AnySource",
    "AnyTextSource",
    "HvliteSource",
    "ModelFiles",
    "Quantization",
    "TensorInfo",
    "TextSource",
    "TransformerSource",
    "VaeSource",
    "WeightFiles",
    "WeightSource",
    "check_finite",
    "expected_transformer_shapes",
    "expected_vae_shapes",
    "locate",
    "open_text_encoder",
    "open_text_encoder_2",
    "open_transformer",
    "open_vae",
]

AnySource: TypeAlias = WeightSource | HvliteSource
AnyTextSource: TypeAlias = TextSource | HvliteTextEncoder


def open_transformer(
    model: ModelFiles | Path | str, *, config: Mapping[str, Any] | None = None
) -> TransformerSource | HvliteTransformer:
    """Open and check the transformer of any model; no weight is read.

    `config`: official field names (`TransformerConfig`); wins over a config.json beside the weights, completes what
    shapes cannot say. Raises CheckpointError (file and tensor named), ConfigError for a wrong `config`.
    """
    files = _hvlite_files(model)
    if files is not None and files.transformer is not None and files.transformer.path.name == MANIFEST:
        return open_hvlite_transformer(files.root, config=config)
    return transformer_source.open_transformer(model, config=config)


def open_text_encoder(model: ModelFiles | Path | str) -> AnyTextSource:
    """Open and check the LLM: names as in transformers' LlamaModel, without its head. Raises CheckpointError."""
    files = _hvlite_files(model)
    return text_source.open_text_encoder(model) if files is None else open_hvlite_text_encoder(files.root)


def _hvlite_files(model: ModelFiles | Path | str) -> ModelFiles | None:
    """The model's files if it is a folder of ours."""
    if not isinstance(model, ModelFiles):
        path = existing(model)
        if not (path.is_dir() and (path / MANIFEST).is_file()):
            return None
        model = locate(path)
    return model if model.layout == "hvlite" else None
