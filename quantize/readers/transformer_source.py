"""Opens the transformer of any checkpoint: official, diffusers or ComfyUI names, bf16 to fp8, one file or many."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ...errors import CheckpointError
from ..architecture import TransformerConfig
from .infer import Claim, ShapeOf, claim_argument, claim_file, infer_transformer
from .keymap import TRANSFORMER_PREFIXES, Spelling, comfyui_canonical
from .locate import ModelFiles, WeightFiles
from .matching import check_match, strip_names
from .parts import find_part, open_weights, read_config
from .quantized_sources import Scales, is_sidecar, read_scales
from .recognize import SPELLINGS, recognize_transformer, refuse_image_conditioned
from .shapes import expected_transformer_shapes
from .sharded_file import TORCH_SUFFIXES, open_file
from .tensor_file import FP8_DTYPES, TensorFile
from .weight_source import WeightSource, recipe_info

_CLASS_NAME = "HunyuanVideoTransformer3DModel"


class TransformerSource(WeightSource):
    """The transformer's tensors under their official names, and its architecture."""

    config: TransformerConfig


def open_transformer(model: ModelFiles | Path | str, *, config: Mapping[str, Any] | None = None) -> TransformerSource:
    """Open and check the transformer of a model; no weight is read.

    `config`: official field names (`TransformerConfig`); wins over a config.json beside the weights, completes what
    shapes cannot say. Raises CheckpointError (file and tensor named), ConfigError for a `config` that contradicts the
    shapes or has unknown fields.
    """
    weights = find_part(model, "transformer")
    claims = [claim_argument(config), _claim_beside(weights)]
    file = open_weights(weights)
    try:
        return _check(file, claims)
    except BaseException:
        file.close()
        raise


def _claim_beside(weights: WeightFiles) -> Claim:
    """What the config.json beside the weights says; the config of another class of model is an error."""
    stated = read_config(weights)
    path = weights.config or weights.path
    name = stated.get("_class_name")
    if isinstance(name, str) and name not in (_CLASS_NAME, "HYVideoDiffusionTransformer"):
        raise CheckpointError(f"{path} describes {name:.80}; expected {_CLASS_NAME}", hint="choose another model")
    condition = stated.get("image_condition_type")
    if condition is not None:
        raise CheckpointError(
            f"{path} describes an image-to-video model (image_condition_type {condition!r:.40})",
            hint="use the text-to-video model",
        )
    return claim_file(stated, path)


def _check(file: TensorFile, claims: list[Claim]) -> TransformerSource:
    path = file.paths[0]
    stored = strip_names(file, TRANSFORMER_PREFIXES, comfyui_canonical)
    layout = recognize_transformer(stored, path)
    weights = [name for name in stored if not is_sidecar(name)]
    config = infer_transformer(weights, _shapes_by(SPELLINGS[layout], file, stored), claims, path)
    refuse_image_conditioned(config.in_channels, config.out_channels, path)
    shapes = expected_transformer_shapes(config)
    recipes = {name: SPELLINGS[layout](name) for name in shapes}
    check_match(file, stored, weights, recipes, shapes, config.hidden_size)
    source = TransformerSource(file, stored, recipes, _scales(file, stored), layout)
    source.config = config
    return source


def _shapes_by(spelling: Spelling, file: TensorFile, stored: Mapping[str, str]) -> ShapeOf:
    def shape_of(name: str) -> tuple[int, ...] | None:
        sources = spelling(name).sources
        if any(source not in stored for source in sources):
            return None
        return recipe_info(spelling(name), [file.info(stored[source]) for source in sources]).shape

    return shape_of


def _scales(file: TensorFile, stored: Mapping[str, str]) -> Scales:
    """The scales in the file, or of the official pair's map file beside it, which an fp8 `.pt` always needs."""
    path = file.paths[0]
    has_own = any(is_sidecar(name) for name in stored)
    if has_own or not any(file.info(name).dtype in FP8_DTYPES for name in file.names()):
        return read_scales(file, stored, None)
    map_path = path.with_name(f"{path.stem}_map{path.suffix}")
    if not map_path.is_file():
        if path.suffix in TORCH_SUFFIXES:
            raise CheckpointError(
                f"{path} is stored in fp8, but its scales are missing", hint=f"put {map_path.name} beside it"
            )
        return read_scales(file, stored, None)
    map_file = open_file(map_path)
    try:
        return read_scales(file, stored, map_file)
    finally:
        map_file.close()
