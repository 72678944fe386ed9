"""From what a caller names (a model, a folder, a file) to the open weights of one part."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from ...errors import CheckpointError
from ...files import read_json
from .locate import ModelFiles, WeightFiles, existing, locate, weight_file
from .sharded_file import open_file, open_shards
from .tensor_file import TensorFile

Part = Literal["transformer", "vae", "text_encoder", "text_encoder_2"]


def find_part(model: ModelFiles | Path | str, part: Part) -> WeightFiles:
    """The files of one part. A path may be a whole model, the part's folder or its weights file.

    Raises CheckpointError.
    """
    if not isinstance(model, ModelFiles):
        path = existing(model)
        if path.is_file():
            return weight_file(path)
        model = locate(path)
    weights: WeightFiles | None = getattr(model, part)
    if model.layout == "single_file":
        weights = model.transformer  # which part the file holds shows when it is opened
    if weights is None:
        raise CheckpointError(
            f"{model.root} has no {part.replace('_', ' ')}", hint="its folder is missing or holds no weights"
        )
    return weights


def open_weights(weights: WeightFiles) -> TensorFile:
    """Open a part's file, or all shards of its index."""
    return open_shards(weights.path) if weights.is_index else open_file(weights.path)


def read_config(weights: WeightFiles) -> dict[str, Any]:
    """The config.json beside the weights; empty where there is none."""
    if weights.config is None:
        return {}
    value = read_json(weights.config)
    if not isinstance(value, dict):
        raise CheckpointError(f"{weights.config} is not a JSON object")
    return value
