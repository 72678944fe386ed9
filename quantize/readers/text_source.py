"""Opens the text encoders: the Llama (alone, as a causal language model or inside LLaVA) and CLIP's text half."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ...errors import CheckpointError
from .keymap import CLIP_PREFIXES, LLAMA_PREFIXES, official_recipe
from .locate import ModelFiles, WeightFiles
from .matching import check_match, strip_names
from .parts import Part, find_part, open_weights, read_config
from .quantized_sources import is_sidecar, read_scales
from .recognize import not_recognized, refuse_strangers
from .shapes import Shapes, expected_clip_text_shapes, expected_llama_shapes
from .tensor_file import TensorFile
from .weight_source import WeightSource

Config = dict[str, Any]

# not part of the encoder: output head, vision half, projector, the tokenizer some files carry, tables that are computed
_LLAMA_DROPPED = re.compile(
    r"(^|\.)(lm_head|vision_tower|vision_model|visual|multi_modal_projector|image_newline)(\.|$)"
    r"|^tokenizer$|rotary_emb\.inv_freq$"
)
_CLIP_DROPPED = re.compile(r"(^|\.)position_ids$")
_MAX_LAYERS = 1024
_MAX_SIZE = 2**24
_SIZES = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "max_position_embeddings",
)

# what transformers assumes for a field that a config.json leaves out
_LLAMA_DEFAULTS = {
    "vocab_size": 32_000,
    "hidden_size": 4096,
    "intermediate_size": 11_008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
}
_CLIP_DEFAULTS = {
    "vocab_size": 49_408,
    "hidden_size": 512,
    "intermediate_size": 2048,
    "num_hidden_layers": 12,
    "num_attention_heads": 8,
    "max_position_embeddings": 77,
}


class TextSource(WeightSource):
    """A text encoder's tensors without any prefix; `config` is the text part of its config.json, as stored."""

    config: Config


def open_text_encoder(model: ModelFiles | Path | str) -> TextSource:
    """Open and check the LLM: names as in transformers' LlamaModel, without its head. Raises CheckpointError."""
    return _open(model, "text_encoder", LLAMA_PREFIXES, _llama_names, _llama_config, expected_llama_shapes)


def open_text_encoder_2(model: ModelFiles | Path | str) -> TextSource:
    """Open and check CLIP's text half: names as in transformers' CLIPTextModel. Raises CheckpointError."""
    return _open(model, "text_encoder_2", CLIP_PREFIXES, _clip_names, _clip_config, expected_clip_text_shapes)


def _open(
    model: ModelFiles | Path | str,
    part: Part,
    prefixes: tuple[str, ...],
    own_names: Callable[[TensorFile], list[str]],
    complete: Callable[[Config, TensorFile, dict[str, str]], Config],
    expected: Callable[[Mapping[str, Any]], Shapes],
) -> TextSource:
    weights = find_part(model, part)
    stated = _text_part(read_config(weights))
    file = open_weights(weights)
    try:
        stored = strip_names(file, prefixes, names=own_names(file))
        config = complete(stated, file, stored)
        shapes = expected(_checked(config, weights))
        recipes = {name: official_recipe(name) for name in shapes}
        check_match(file, stored, [name for name in stored if not is_sidecar(name)], recipes, shapes)
        source = TextSource(file, stored, recipes, read_scales(file, stored, None), "official")
    except BaseException:
        file.close()
        raise
    source.config = stated or config
    return source


def _text_part(config: Config) -> Config:
    """LLaVA and whole CLIP models keep the text half's fields in `text_config`."""
    text = config.get("text_config")
    return text if isinstance(text, dict) else config


def _checked(config: Config, weights: WeightFiles) -> Config:
    path = weights.config or weights.path
    for name in _SIZES:
        value = config.get(name)
        limit = _MAX_LAYERS if name == "num_hidden_layers" else _MAX_SIZE
        if value is not None and (type(value) is not int or not 0 < value <= limit):
            raise CheckpointError(f"{path} has {name} = {value!r:.80}; expected a whole number from 1 to {limit}")
    return config


def _llama_names(file: TensorFile) -> list[str]:
    names = [name for name in file.names() if not _LLAMA_DROPPED.search(name) and name != "scaled_fp8"]
    short = [name.rsplit("layers.", 1)[-1] for name in names]
    if not any(name.endswith("embed_tokens.weight") for name in names) or "0.self_attn.q_proj.weight" not in short:
        refuse_strangers(file.names(), file.paths[0], "the Llama text encoder", allowed="a Llama-like language model")
        raise not_recognized(file.names(), file.paths[0], "the Llama text encoder")
    return names


def _llama_config(stated: Config, file: TensorFile, stored: dict[str, str]) -> Config:
    """The config with what transformers assumes.

    Without a config.json, the dimensions the shapes say (heads of 128, as in Llama 3).
    """
    if not stated:
        stated = _llama_from_shapes(file, stored)
    config = {**_LLAMA_DEFAULTS, **_stated(stated)}
    config.setdefault("num_key_value_heads", config["num_attention_heads"])
    return config


def _llama_from_shapes(file: TensorFile, stored: dict[str, str]) -> Config:
    vocab, hidden = _matrix(file, stored, "embed_tokens.weight")
    rows = {x: _matrix(file, stored, f"layers.0.self_attn.{x}_proj.weight")[0] for x in "qk"}
    return {
        "model_type": "llama",
        "vocab_size": vocab,
        "hidden_size": hidden,
        "intermediate_size": _matrix(file, stored, "layers.0.mlp.gate_proj.weight")[0],
        "num_hidden_layers": _layers(stored, r"layers\.(\d+)\."),
        "num_attention_heads": rows["q"] // 128,
        "num_key_value_heads": rows["k"] // 128,
        "rope_theta": 500_000.0,
        "rms_norm_eps": 1e-5,
        "max_position_embeddings": 8192,
        "hidden_act": "silu",
    }


def _clip_names(file: TensorFile) -> list[str]:
    """`text_model.*` where there is such a name, else all of them."""
    names = [name for name in file.names() if name.startswith(CLIP_PREFIXES)] or file.names()
    names = [name for name in names if not _CLIP_DROPPED.search(name)]
    if not any(name.endswith("embeddings.position_embedding.weight") for name in names):
        refuse_strangers(file.names(), file.paths[0], "CLIP's text encoder", allowed="a CLIP text encoder")
        raise not_recognized(file.names(), file.paths[0], "CLIP's text encoder")
    return names


def _clip_config(stated: Config, file: TensorFile, stored: dict[str, str]) -> Config:
    if not stated:
        stated = _clip_from_shapes(file, stored)
    return {**_CLIP_DEFAULTS, **_stated(stated)}


def _clip_from_shapes(file: TensorFile, stored: dict[str, str]) -> Config:
    vocab, hidden = _matrix(file, stored, "embeddings.token_embedding.weight")
    return {
        "model_type": "clip_text_model",
        "vocab_size": vocab,
        "hidden_size": hidden,
        "intermediate_size": _matrix(file, stored, "encoder.layers.0.mlp.fc1.weight")[0],
        "num_hidden_layers": _layers(stored, r"encoder\.layers\.(\d+)\."),
        "num_attention_heads": hidden // 64,
        "max_position_embeddings": _matrix(file, stored, "embeddings.position_embedding.weight")[0],
        "hidden_act": "quick_gelu",
        "eos_token_id": 2,
    }


def _stated(config: Config) -> Config:
    """Without the fields that are null: they mean what transformers assumes."""
    return {name: value for name, value in config.items() if value is not None}


def _layers(stored: dict[str, str], pattern: str) -> int:
    found = [int(match[1][:9]) for match in map(re.compile(pattern).match, stored) if match]
    return max(found, default=-1) + 1


def _matrix(file: TensorFile, stored: dict[str, str], name: str) -> tuple[int, int]:
    shape = file.info(stored[name]).shape if name in stored else ()
    if len(shape) != 2:
        raise CheckpointError(f"{file.paths[0]}: {name!r} is missing or is no matrix, its shape is {list(shape)}")
    return shape[0], shape[1]
