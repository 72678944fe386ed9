"""The transformer's dimensions from its tensors' shapes, completed by what a config says and checked against it.

Shapes cannot say the rotary axes, nor the head count where there is no q/k norm. Those come from `config=`, else from
a config.json beside the weights, else from the released 13B model where its values fit; rotary axes that stay unknown
are None.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import fields
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

from ...errors import CheckpointError, ConfigError, HvliteError
from ..architecture import TransformerConfig

MAX_BLOCKS = 1024

Shape = tuple[int, ...]
ShapeOf = Callable[[str], Shape | None]
FIELDS = tuple(field.name for field in fields(TransformerConfig))
_RELEASED = TransformerConfig()
_TRIPLES = ("rope_dim_list", "patch_size")
_FLOATS = ("mlp_width_ratio", "rope_theta")

# diffusers' config.json -> official fields; patch_size is put together from two
_DIFFUSERS_FIELDS = {
    "num_attention_heads": "heads_num",
    "num_layers": "mm_double_blocks_depth",
    "num_single_layers": "mm_single_blocks_depth",
    "num_refiner_layers": "refiner_depth",
    "in_channels": "in_channels",
    "out_channels": "out_channels",
    "mlp_ratio": "mlp_width_ratio",
    "text_embed_dim": "text_states_dim",
    "pooled_projection_dim": "text_states_dim_2",
    "guidance_embeds": "guidance_embed",
    "rope_theta": "rope_theta",
    "rope_axes_dim": "rope_dim_list",
}


class Claim(NamedTuple):
    """Fields that a config states, who states them, and the error class its faults are raised in."""

    fields: Mapping[str, Any]
    origin: str
    error: type[HvliteError]


def claim_argument(config: Mapping[str, Any] | None) -> Claim:
    """The fields of `config=`. An unknown name is an error that lists the valid ones."""
    config = dict(config or {})
    unknown = [name for name in config if name not in FIELDS]
    if unknown:
        raise ConfigError(
            f"the model config has the unknown field {unknown[0]!r:.80}", hint=f"valid are: {', '.join(FIELDS)}"
        )
    return Claim(_normalize(config, "the model config", ConfigError), "the model config", ConfigError)


def claim_file(config: Mapping[str, Any], path: Path) -> Claim:
    """The fields of a config.json beside the weights, official or diffusers.

    What it says about other things is left alone.
    """
    if "num_attention_heads" in config or "num_layers" in config:
        stated = {official: config[name] for name, official in _DIFFUSERS_FIELDS.items() if name in config}
        if {"patch_size", "patch_size_t"} <= config.keys():
            stated["patch_size"] = [config["patch_size_t"], config["patch_size"], config["patch_size"]]
        if {"num_attention_heads", "attention_head_dim"} <= config.keys():
            stated["hidden_size"] = _product(config["num_attention_heads"], config["attention_head_dim"])
    else:
        stated = {name: config[name] for name in FIELDS if name in config}
    stated.pop("qk_norm", None)  # spelled differently everywhere; the shapes say it
    return Claim(_normalize(stated, str(path), CheckpointError), str(path), CheckpointError)


def _product(heads: Any, head_dim: Any) -> Any:
    return heads * head_dim if type(heads) is int and type(head_dim) is int else None


def _normalize(stated: dict[str, Any], origin: str, error: type[HvliteError]) -> dict[str, Any]:
    return {name: _normal_value(name, value, origin, error) for name, value in stated.items()}


def _normal_value(name: str, value: Any, origin: str, error: type[HvliteError]) -> Any:
    """A value of the field's own type, or the error that names what was expected."""
    if (
        name in _TRIPLES
        and isinstance(value, list | tuple)
        and len(value) == 3
        and all(_is_size(item) for item in value)
    ):
        return tuple(value)
    if name == "rope_dim_list" and value is None:
        return None
    if name in _FLOATS and isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < 1e9:
        return float(value)
    if name == "guidance_embed" and isinstance(value, bool):
        return value
    if name == "qk_norm" and value in ("rms", None):
        return value
    if name not in (*_TRIPLES, *_FLOATS, "guidance_embed", "qk_norm") and _is_size(value):
        return value
    raise error(f"{origin} has {name} = {value!r:.80}; expected {_expected(name)}")


def _is_size(value: object) -> bool:
    return type(value) is int and 0 <= value < 2**31


def _expected(name: str) -> str:
    kinds = {**dict.fromkeys(_TRIPLES, "a list of three whole numbers"), **dict.fromkeys(_FLOATS, "a positive number")}
    return kinds.get(name, {"guidance_embed": "true or false", "qk_norm": "'rms' or null"}.get(name, "a whole number"))


def infer_transformer(names: Iterable[str], shape_of: ShapeOf, claims: list[Claim], path: Path) -> TransformerConfig:
    """The config of the transformer whose official tensors have the shapes `shape_of` says (None: not there).

    `names`: source names of any spelling, for the depths. `claims`: configs, the strongest first.
    """
    known = _from_shapes(list(names), shape_of, path)
    for claim in claims:
        _check_claim(claim, known)
    said: dict[str, Any] = {}
    for claim in reversed(claims):
        said.update(claim.fields)
    values = {**said, **known}
    values["heads_num"] = _heads(values, path)
    values.setdefault("rope_dim_list", _released_rope(values))
    try:
        return TransformerConfig(**values)
    except ConfigError as error:
        strongest = next((claim for claim in claims if claim.fields), None)
        raise (strongest.error if strongest else CheckpointError)(
            f"{path}: {error.message}", hint=error.hint
        ) from error


def _from_shapes(names: list[str], shape_of: ShapeOf, path: Path) -> dict[str, Any]:
    patch = _shape(shape_of, "img_in.proj.weight", 5, path)
    hidden = patch[0]
    norm = shape_of("double_blocks.0.img_attn_q_norm.weight") or shape_of("single_blocks.0.q_norm.weight")
    known = {
        "hidden_size": hidden,
        "in_channels": patch[1],
        "patch_size": patch[2:],
        "text_states_dim": _shape(shape_of, "txt_in.input_embedder.weight", 2, path)[1],
        "text_states_dim_2": _shape(shape_of, "vector_in.in_layer.weight", 2, path)[1],
        "out_channels": _shape(shape_of, "final_layer.linear.weight", 2, path)[0] // max(prod(patch[2:]), 1),
        "guidance_embed": shape_of("guidance_in.mlp.0.weight") is not None,
        "mm_double_blocks_depth": _depth(names, r"(?:double|(?<!single_)transformer)_blocks\.(\d+)\.", path),
        "mm_single_blocks_depth": _depth(names, r"single_(?:transformer_)?blocks\.(\d+)\.", path),
        "refiner_depth": _depth(names, r"(?:individual_token_refiner\.|refiner_)blocks\.(\d+)\.", path),
        "qk_norm": "rms" if norm else None,
    }
    fc1 = shape_of("double_blocks.0.img_mlp.fc1.weight")
    linear1 = shape_of("single_blocks.0.linear1.weight")
    if fc1 or linear1:
        known["mlp_width_ratio"] = (fc1[0] if fc1 else linear1[0] - 3 * hidden) / max(hidden, 1)  # type: ignore[index]
    if norm and len(norm) == 1 and norm[0] and hidden % norm[0] == 0:
        known["heads_num"] = hidden // norm[0]
    return known


def _shape(shape_of: ShapeOf, name: str, dims: int, path: Path) -> Shape:
    shape = shape_of(name)
    if shape is None:
        raise CheckpointError(f"{path}: {name!r} is missing", hint="the file belongs to another model or is incomplete")
    if len(shape) != dims or 0 in shape:
        raise CheckpointError(f"{path}: {name!r} has the shape {list(shape)}; expected {dims} sizes, none of them zero")
    return shape


def _depth(names: list[str], pattern: str, path: Path) -> int:
    """One more than the highest block index, so that a block missing in the middle is reported as missing."""
    search = re.compile(r"(?:^|\.)" + pattern).search
    highest = max((int(match[1][:9]) for match in map(search, names) if match), default=-1)
    if highest >= min(MAX_BLOCKS, len(names)):
        raise CheckpointError(f"{path} names a block {highest}, but holds {len(names)} tensors in all")
    return highest + 1


def _check_claim(claim: Claim, known: Mapping[str, Any]) -> None:
    for name, value in claim.fields.items():
        if name in known and value != known[name]:
            raise claim.error(f"{claim.origin} says {name} = {value!r}, but the weights' shapes say {known[name]!r}")


def _heads(values: Mapping[str, Any], path: Path) -> int:
    if "heads_num" in values:
        return int(values["heads_num"])
    if values["hidden_size"] == _RELEASED.hidden_size:
        return _RELEASED.heads_num
    raise CheckpointError(
        f"{path} does not say how many attention heads it has: its blocks have no q/k norm",
        hint="give heads_num in a config (config=, --model-config)",
    )


def _released_rope(values: Mapping[str, Any]) -> tuple[int, int, int] | None:
    axes = _RELEASED.rope_dim_list
    return axes if axes and values["heads_num"] and sum(axes) * values["heads_num"] == values["hidden_size"] else None
