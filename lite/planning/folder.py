"""The sizes of a model that is there, read from its headers; no weight is read."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ...errors import CheckpointError
from ...quantize.format import HvliteTextEncoder
from ...quantize.presets import StoredModel, StoredPart
from ...quantize.readers.locate import ModelFiles, locate
from ...quantize.readers.tensor_file import TensorInfo
from ...quantize.scheme import KEPT_BY_DTYPE
from ...quantize.source import (
    AnySource,
    AnyTextSource,
    HvliteSource,
    WeightSource,
    open_text_encoder,
    open_text_encoder_2,
    open_transformer,
    open_vae,
)
from ..card import load_card

TEXT_FIELDS = ("hidden_size", "intermediate_size", "num_attention_heads", "num_hidden_layers", "vocab_size")
UNUSED_LAYERS = 2  # the transformer reads hidden_states[-3]


def stored_folder(model: Path | ModelFiles, config: Mapping[str, Any] | None = None) -> tuple[StoredModel, bool]:
    """The model, and whether its blocks can be streamed; `config` as for `load_transformer`. Raises CheckpointError."""
    files = model if isinstance(model, ModelFiles) else locate(model)
    with (
        open_transformer(files, config=config) as transformer,
        open_text_encoder(files) as text,
        open_text_encoder_2(files) as clip,
        open_vae(files) as vae,
    ):
        stored = StoredModel(
            name=load_card(files.root).name,
            transformer=_part(transformer),
            text_encoder=_used_layers(_part(text), text),
            text_encoder_2=_part(clip),
            vae=_part(vae),
            transformer_config=transformer.config,
            vae_config=vae.config,
            llama=_fields(text.config, files, _skipped(text)),
            clip=_fields(clip.config, files, 0),
        )
        return stored, isinstance(transformer, HvliteSource)


def _part(source: AnySource | WeightSource) -> StoredPart:
    """Shapes by name, and the scheme of each: what an hvlite folder says, else the plain type it is stored in."""
    names = source.names()
    schemes: dict[str, str]
    if isinstance(source, HvliteSource):
        schemes = {name: source.scheme(name).name for name in names}
    else:
        schemes = {name: _plain(source.info(name)) for name in names}
    return StoredPart({name: source.info(name).shape for name in names}, schemes)


def _plain(info: TensorInfo) -> str:
    kept = KEPT_BY_DTYPE.get(info.dtype)
    return kept.name if kept else "fp8"


def _skipped(text: AnyTextSource) -> int:
    """Layers at the end whose states nothing reads."""
    return text.skipped_layers if isinstance(text, HvliteTextEncoder) else UNUSED_LAYERS


def _used_layers(part: StoredPart, text: AnyTextSource) -> StoredPart:
    layers: int = text.config["num_hidden_layers"]
    unused = tuple(f"layers.{index}." for index in range(layers - _skipped(text), layers))
    shapes = {name: shape for name, shape in part.shapes.items() if not name.startswith(unused)}
    return StoredPart(shapes, part.schemes)


def _fields(config: dict[str, Any], files: ModelFiles, skipped: int) -> dict[str, int]:
    try:
        fields = {name: int(config[name]) for name in TEXT_FIELDS}
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{files.root}: the config.json of a text encoder says no {error}") from None
    fields["num_key_value_heads"] = int(config.get("num_key_value_heads") or fields["num_attention_heads"])
    fields["num_hidden_layers"] -= skipped
    return fields
