"""Opens the causal 3D VAE of any checkpoint. Official and diffusers names are the same; ComfyUI files use LDM names."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from ...errors import CheckpointError, ConfigError
from ..architecture import VaeConfig
from .keymap import VAE_PREFIXES, Spelling, ldm_recipe, official_recipe
from .locate import ModelFiles, WeightFiles
from .matching import check_match, strip_names
from .parts import find_part, open_weights, read_config
from .quantized_sources import is_sidecar, read_scales
from .recognize import not_recognized, refuse_strangers
from .shapes import expected_vae_shapes
from .tensor_file import TensorFile
from .weight_source import WeightSource

_CLASS_NAMES = ("AutoencoderKLCausal3D", "AutoencoderKLHunyuanVideo")
_EXPECTED = "the HunyuanVideo VAE"
_LEVELS = 4
_MAX_SIZE = 65_536


class VaeSource(WeightSource):
    """The VAE's tensors under their official names, and its architecture."""

    config: VaeConfig


def open_vae(model: ModelFiles | Path | str) -> VaeSource:
    """Open and check the VAE of a model; no weight is read. Raises CheckpointError."""
    weights = find_part(model, "vae")
    stated = _read_fields(weights)
    file = open_weights(weights)
    try:
        return _check(file, weights, stated)
    except BaseException:
        file.close()
        raise


def _check(file: TensorFile, weights: WeightFiles, stated: dict[str, Any]) -> VaeSource:
    stored = strip_names(file, VAE_PREFIXES, names=_own_names(file))
    layout, spelling = _recognize(stored, file.paths[0])
    config = _config({**_from_shapes(file, stored, spelling), **stated}, weights)
    shapes = expected_vae_shapes(config)
    recipes = {name: spelling(name) for name in shapes}
    names = [name for name in stored if not is_sidecar(name)]
    check_match(file, stored, names, recipes, shapes)
    source = VaeSource(file, stored, recipes, read_scales(file, stored, None), layout)
    source.config = config
    return source


def _own_names(file: TensorFile) -> list[str]:
    """Where some names carry the VAE's prefix the others belong to something else, as in the official loader."""
    names = file.names()
    return [name for name in names if name.startswith(VAE_PREFIXES)] or names


def _recognize(names: Mapping[str, str], path: Path) -> tuple[str, Spelling]:
    if "encoder.down_blocks.0.resnets.0.conv1.conv.weight" in names:
        return "official", official_recipe
    if "encoder.down.0.block.0.conv1.conv.weight" in names:
        return "comfyui", ldm_recipe
    if "encoder.down_blocks.0.resnets.0.conv1.weight" in names or "encoder.down.0.block.0.conv1.weight" in names:
        raise CheckpointError(
            f"{path} looks like the VAE of an image model; expected {_EXPECTED}", hint="choose another file"
        )
    refuse_strangers(names, path, _EXPECTED, allowed="a VAE")
    raise not_recognized(names, path, _EXPECTED)


def _read_fields(weights: WeightFiles) -> dict[str, Any]:
    """What the config.json beside the weights says, in the official fields. Other classes of model are an error."""
    stated = read_config(weights)
    name = stated.get("_class_name")
    if isinstance(name, str) and name not in _CLASS_NAMES:
        raise CheckpointError(f"{weights.config} describes {name:.80}; expected {' or '.join(_CLASS_NAMES)}")
    if "temporal_compression_ratio" in stated:
        stated.setdefault("time_compression_ratio", stated["temporal_compression_ratio"])
    if stated.get("act_fn", "silu") != "silu":
        raise CheckpointError(f"{weights.config} has act_fn = {stated['act_fn']!r:.40}; expected 'silu'")
    own = {field.name for field in fields(VaeConfig)}
    return {key: _value(key, value, weights) for key, value in stated.items() if key in own}


def _value(name: str, value: Any, weights: WeightFiles) -> Any:
    if name == "block_out_channels" and isinstance(value, list) and value and all(_is_size(item) for item in value):
        return tuple(value)
    if name == "mid_block_add_attention" and isinstance(value, bool):
        return value
    if name == "scaling_factor" and isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < 1e6:
        return float(value)
    if name not in ("block_out_channels", "mid_block_add_attention", "scaling_factor") and _is_size(value):
        return value
    raise CheckpointError(f"{weights.config} has {name} = {value!r:.80}, which is not possible")


def _is_size(value: object) -> bool:
    return type(value) is int and 0 < value <= _MAX_SIZE


def _from_shapes(file: TensorFile, stored: Mapping[str, str], spelling: Spelling) -> dict[str, Any]:
    """What the shapes say; a config.json that says otherwise fails against the table of tensors."""
    widths = []
    for level in range(_LEVELS):
        source = spelling(f"encoder.down_blocks.{level}.resnets.0.conv1.conv.weight").sources[0]
        if source not in stored:
            raise CheckpointError(f"{file.paths[0]}: {source!r} is missing; expected a VAE of {_LEVELS} levels")
        widths.append((*file.info(stored[source]).shape, 0)[0])
    resnet = re.compile(
        re.escape(spelling("encoder.down_blocks.0.resnets.0.norm1.bias").sources[0]).replace(
            r"0\.norm1", r"(\d)\.norm1"
        )
    )
    return {
        "block_out_channels": tuple(widths),
        "layers_per_block": sum(1 for name in stored if resnet.fullmatch(name)),
    }


def _config(values: dict[str, Any], weights: WeightFiles) -> VaeConfig:
    try:
        return VaeConfig(**values)
    except ConfigError as error:
        raise CheckpointError(f"{weights.config or weights.path}: {error.message}", hint=error.hint) from error
