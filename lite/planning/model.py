"""What a plan knows of a model: how many bytes each piece of it takes on disk, on the way and on the device."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from ...quantize.architecture import TransformerConfig, VaeConfig
from ...quantize.presets import PRESETS, StoredModel, StoredPart, stored_preset
from ...quantize.readers.locate import ModelFiles

BLOCK_KINDS = ("double_blocks", "single_blocks")
NF4_BYTES = 0.5 + 4 / 64  # a code, and an fp32 scale for 64 of them (the second quantization is undone at loading)


@dataclass(frozen=True, kw_only=True)
class ModelSizes:
    """Bytes as stored, elements where the runtime chooses the type.

    blocks: the blocks' weights as they are streamed, without modulation, in the model's order.
    scheme: of the blocks' linear layers (the one whose widening takes most, where they differ).
    streamable: an hvlite folder, whose blocks may lie anywhere; others are loaded whole, in the type they compute in.
    """

    name: str
    config: TransformerConfig
    vae_config: VaeConfig
    blocks: tuple[int, ...]
    block_elements: int
    modulation_elements: int
    modulation_bytes: int
    outer_elements: int
    scheme: str
    streamable: bool
    vae_elements: int
    llama: Mapping[str, int]
    llama_layer_elements: int
    embedding_elements: int
    llama_scheme: str
    text_bytes: int
    clip_elements: int
    largest_elements: int  # of the transformer's tensors


def plan_model(model: Path | str | ModelFiles, config: Mapping[str, Any] | None = None) -> ModelSizes:
    """The sizes of a preset or of a model. No weight is read. ConfigError, CheckpointError.

    `config`: official transformer field names, completing what a model's files do not say.
    """
    if str(model) in PRESETS:
        return model_sizes(stored_preset(str(model)), streamable=True)
    from .folder import stored_folder

    stored, streamable = stored_folder(Path(model) if isinstance(model, str) else model, config)
    return model_sizes(stored, streamable=streamable)


def model_sizes(stored: StoredModel, *, streamable: bool) -> ModelSizes:
    """Every piece of a stored model, counted."""
    blocks, modulation, outer = _split(stored.transformer, stored.transformer_config)
    count = stored.transformer.shapes
    layers = [name for name in stored.text_encoder.shapes if name.startswith("layers.0.")]
    return ModelSizes(
        name=stored.name,
        config=stored.transformer_config,
        vae_config=stored.vae_config,
        blocks=tuple(sum(stored.transformer.tensor_bytes(name) for name in names) for names in blocks),
        block_elements=sum(prod(count[name]) for names in blocks for name in names),
        modulation_elements=sum(prod(count[name]) for name in modulation),
        modulation_bytes=sum(stored.transformer.tensor_bytes(name) for name in modulation),
        outer_elements=sum(prod(count[name]) for name in outer),
        scheme=_worst_scheme(stored.transformer, [name for names in blocks for name in names]),
        streamable=streamable,
        vae_elements=sum(prod(shape) for shape in stored.vae.shapes.values()),
        llama=stored.llama,
        llama_layer_elements=sum(prod(stored.text_encoder.shapes[name]) for name in layers),
        embedding_elements=prod(stored.text_encoder.shapes["embed_tokens.weight"]),
        llama_scheme=_worst_scheme(stored.text_encoder, layers),
        text_bytes=stored.text_encoder.nbytes() + stored.text_encoder_2.nbytes(),
        largest_elements=max(prod(shape) for shape in count.values()),
        clip_elements=sum(prod(shape) for shape in stored.text_encoder_2.shapes.values()),
    )


def _split(part: StoredPart, config: TransformerConfig) -> tuple[list[list[str]], list[str], list[str]]:
    """Names of each block's weights, of the modulation layers, and of what is outside of the blocks."""
    depths = (config.mm_double_blocks_depth, config.mm_single_blocks_depth)
    places = [f"{kind}.{index}." for kind, depth in zip(BLOCK_KINDS, depths, strict=True) for index in range(depth)]
    blocks: dict[str, list[str]] = {place: [] for place in places}
    modulation, outer = [], []
    for name in part.shapes:
        place = ".".join(name.split(".")[:2]) + "."
        if place not in blocks:
            outer.append(name)
        elif name.split(".")[2] in ("img_mod", "txt_mod", "modulation"):
            modulation.append(name)
        else:
            blocks[place].append(name)
    return list(blocks.values()), modulation, outer


def _worst_scheme(part: StoredPart, names: list[str]) -> str:
    """The quantized scheme that takes most to widen, or the plain one all are stored in."""
    found = {part.schemes[name] for name in names}
    return next((name for name in ("nf4", "fp8", "int8", "int4") if name in found), min(found, default="bf16"))
