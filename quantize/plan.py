"""What a conversion will write: every file with its tensors, in order, before a weight is read. One block, one file."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ..errors import CheckpointError
from ..files import read_limited
from .architecture import TransformerConfig, VaeConfig
from .manifest import SKIP_KEY
from .readers.tensor_file import TORCH_NAMES, TensorInfo
from .readers.text_source import TextSource
from .readers.transformer_source import TransformerSource
from .readers.vae_source import VaeSource
from .readers.weight_source import WeightSource
from .recipe import Choice, PartRecipe, Recipe
from .writer import file_bytes, file_order

CARD_NAME = "hvlite_card.json"
# The transformer reads hidden_states[-3]: the language model's last two layers and its norm are never run.
UNUSED_LAYERS = 2

_BLOCK = re.compile(r"(double|single)_blocks\.(\d+)\.")
_MODULATION = re.compile(r"blocks\.\d+\.(img_mod|txt_mod|modulation)\.linear\.")
_LAYER = re.compile(r"layers\.(\d+)\.")
_TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
)
_TOKENIZER_LIMIT_BYTES = 64 << 20


@dataclass(frozen=True)
class Weight:
    """A tensor to store: its name in the source, its key on disk, how it is stored, what it weighs in the source."""

    part: str
    name: str
    key: str
    shape: tuple[int, ...]
    choice: Choice
    source_bytes: int

    def tensors(self) -> dict[str, TensorInfo]:
        return self.choice.scheme.tensors(self.key, self.shape)


@dataclass(frozen=True)
class FilePlan:
    """A file to write: weights, or a few bytes that are there already."""

    path: str
    weights: tuple[Weight, ...] = ()
    content: bytes = b""

    @property
    def source_bytes(self) -> int:
        return sum(weight.source_bytes for weight in self.weights) + len(self.content)

    @property
    def streamed(self) -> bool:
        """Whether the tensors' bytes can be written as they come: their sizes and their order are known."""
        return not any(weight.choice.scheme.quantized for weight in self.weights)

    def layout(self) -> dict[str, TensorInfo]:
        """All tensors in the order they lie in the file (nf4's states with an upper bound of their length)."""
        layout = {key: info for weight in self.weights for key, info in weight.tensors().items()}
        return {key: layout[key] for key in file_order(layout)}

    @property
    def nbytes(self) -> int:
        """Bytes on disk: exact, but an upper bound with nf4."""
        return file_bytes(self.layout()) if self.weights else len(self.content)


@dataclass
class Sources:
    """The open parts of the model that is converted, and its tokenizers."""

    transformer: TransformerSource | None = None
    text_encoder: TextSource | None = None
    text_encoder_2: TextSource | None = None
    vae: VaeSource | None = None
    tokenizers: dict[str, Path] = field(default_factory=dict)

    def of(self, part: str) -> WeightSource:
        source: WeightSource = getattr(self, part)
        return source


def make_plan(sources: Sources, recipe: Recipe, card: Path | None) -> list[FilePlan]:
    """All files of the output but report.json and hvlite.json, in the order they are written. Raises ConfigError."""
    files: list[FilePlan] = []
    makers: dict[str, Callable[[Any, PartRecipe], list[FilePlan]]] = {
        "text_encoder_2": _plan_clip,
        "vae": _plan_vae,
        "text_encoder": _plan_llama,
        "transformer": _plan_transformer,
    }
    for folder, path in sources.tokenizers.items():
        files += _plan_tokenizer(folder, path)
    for part, make in makers.items():
        source = getattr(sources, part)
        if source is not None:
            recipe[part].require_used(source.names())
            files += make(source, recipe[part])
    return [*files, FilePlan(CARD_NAME, content=read_limited(card, 1 << 20))] if card else files


def _plan_transformer(source: TransformerSource, recipe: PartRecipe) -> list[FilePlan]:
    groups: dict[str, list[Weight]] = {"outer": [], "modulation": []}
    for weight in _weights(source, recipe, source.names()):
        groups.setdefault(_group(weight.name), []).append(weight)
    config = _json({"_class_name": "HYVideoDiffusionTransformer", **config_json(source.config)})
    blocks = [name for name in groups if name not in ("outer", "modulation")]
    files = [
        _weights_file(f"transformer/{name}.safetensors", groups[name]) for name in ("outer", *blocks, "modulation")
    ]
    return [FilePlan("transformer/config.json", content=config), *files]


def _group(name: str) -> str:
    """The file a tensor of the transformer goes to."""
    block = _BLOCK.match(name)
    if not block:
        return "outer"
    return "modulation" if _MODULATION.search(name) else f"{block[1]}_blocks.{int(block[2]):02d}"


def _plan_llama(source: TextSource, recipe: PartRecipe) -> list[FilePlan]:
    """Embeddings and norm first, then one file a layer, up to the state that is used; in transformers' sharded form."""
    skipped = source.config.get(SKIP_KEY, UNUSED_LAYERS)
    used = int(source.config["num_hidden_layers"]) - skipped
    if used < 1:
        raise CheckpointError(f"{source.paths[0]}: a language model of {used + skipped} layers has no state to use")
    groups: dict[int, list[Weight]] = {-1: []}
    for weight in _weights(source, recipe, source.names()):
        layer = _LAYER.match(weight.name)
        groups.setdefault(int(layer[1]) if layer else -1, []).append(weight)
    groups = {layer: weights for layer, weights in groups.items() if layer < used}
    names = [f"model-{index + 1:05d}-of-{len(groups):05d}.safetensors" for index in range(len(groups))]
    shards = [_weights_file(f"text_encoder/{name}", group) for name, group in zip(names, groups.values(), strict=True)]
    weight_map = {key: name for name, shard in zip(names, shards, strict=True) for key in shard.layout()}
    index = _json({"metadata": {}, "weight_map": dict(sorted(weight_map.items()))})
    config = {**_text_config(source, recipe, "LlamaModel"), "num_hidden_layers": used, SKIP_KEY: 0}
    config |= _bitsandbytes(shards)
    return [
        FilePlan("text_encoder/config.json", content=_json(config)),
        *shards,
        FilePlan("text_encoder/model.safetensors.index.json", content=index),
    ]


def _bitsandbytes(shards: list[FilePlan]) -> dict[str, Any]:
    """What tells transformers that the linear layers are NF4."""
    linears = [weight for shard in shards for weight in shard.weights if weight.key.endswith("_proj.weight")]
    names = {weight.choice.scheme.name for weight in linears}
    if "nf4" not in names:
        return {}
    return {
        "quantization_config": {
            "quant_method": "bitsandbytes",
            "load_in_4bit": True,
            "load_in_8bit": False,
            "bnb_4bit_quant_type": "nf4",
            "bnb_4bit_use_double_quant": True,
            "bnb_4bit_compute_dtype": "float16",
            "bnb_4bit_quant_storage": "uint8",
            "llm_int8_skip_modules": [w.name.removesuffix(".weight") for w in linears if w.choice.scheme.name != "nf4"],
        }
    }


def _plan_clip(source: TextSource, recipe: PartRecipe) -> list[FilePlan]:
    weights = _weights(source, recipe, source.names(), prefix="text_model.")
    config = {**_text_config(source, recipe, "CLIPTextModel"), "model_type": "clip_text_model"}
    return [
        FilePlan("text_encoder_2/config.json", content=_json(config)),
        _weights_file("text_encoder_2/model.safetensors", weights),
    ]


def _text_config(source: TextSource, recipe: PartRecipe, name: str) -> dict[str, Any]:
    """The source's config.json for what is stored; fields that say where it came from are left out."""
    kept = {key: value for key, value in source.config.items() if key not in ("_name_or_path", "torch_dtype")}
    return {**kept, "architectures": [name], "dtype": TORCH_NAMES[recipe.default.scheme.dtype]}


def _plan_vae(source: VaeSource, recipe: PartRecipe) -> list[FilePlan]:
    config = {"_class_name": "AutoencoderKLHunyuanVideo", "act_fn": "silu", **config_json(source.config)}
    config |= {"spatial_compression_ratio": 8, "temporal_compression_ratio": source.config.time_compression_ratio}
    return [
        FilePlan("vae/config.json", content=_json(config)),
        _weights_file("vae/diffusion_pytorch_model.safetensors", _weights(source, recipe, source.names())),
    ]


def _plan_tokenizer(folder: str, source: Path) -> list[FilePlan]:
    found = [name for name in _TOKENIZER_FILES if (source / name).is_file()]
    return [FilePlan(f"{folder}/{name}", content=read_limited(source / name, _TOKENIZER_LIMIT_BYTES)) for name in found]


def _weights(source: WeightSource, recipe: PartRecipe, names: list[str], prefix: str = "") -> list[Weight]:
    infos = {name: source.info(name) for name in names}
    return [
        Weight(recipe.part, name, prefix + name, info.shape, recipe.choose(name), info.nbytes)
        for name, info in infos.items()
    ]


def _weights_file(path: str, weights: list[Weight]) -> FilePlan:
    """Weights in the order they lie in the file, as far as that is known beforehand."""
    order = file_order({weight.key: next(iter(weight.tensors().values())) for weight in weights})
    by_key = {weight.key: weight for weight in weights}
    return FilePlan(path, tuple(by_key[key] for key in order))


def config_json(config: TransformerConfig | VaeConfig) -> dict[str, Any]:
    """The fields of an architecture as plain JSON."""
    values: Mapping[str, Any] = asdict(config)
    return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}


def _json(value: object) -> bytes:
    return (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode()
