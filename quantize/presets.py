"""Models that `hvlite quantize` makes of the released 13B weights, as sizes: known before anything is downloaded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from ..errors import ConfigError
from .architecture import TransformerConfig, VaeConfig
from .readers.shapes import (
    Shapes,
    expected_clip_text_shapes,
    expected_llama_shapes,
    expected_transformer_shapes,
    expected_vae_shapes,
)
from .recipe import builtin_recipes
from .scheme import SCHEMES

PRESETS = {"hunyuan-video-fp8": "fp8", "hunyuan-video-int8": "int8", "hunyuan-video-bf16": "bf16"}

# llava-llama-3-8b without the two layers whose states are never used, and CLIP ViT-L/14's text model.
LLAMA = {
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "num_hidden_layers": 30,
    "vocab_size": 128320,
}
CLIP = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "vocab_size": 49408,
    "max_position_embeddings": 77,
}


@dataclass(frozen=True)
class StoredPart:
    """A part's tensors by official name, each weight with the name of its scheme."""

    shapes: Shapes
    schemes: Mapping[str, str]

    def nbytes(self, prefix: str = "") -> int:
        """Bytes of the tensors whose names start so, as stored."""
        return sum(self.tensor_bytes(name) for name in self.shapes if name.startswith(prefix))

    def tensor_bytes(self, name: str) -> int:
        """Bytes of all that one weight is stored as."""
        tensors = SCHEMES[self.schemes[name]].tensors(name, self.shapes[name])
        return sum(info.nbytes for info in tensors.values())


@dataclass(frozen=True)
class StoredModel:
    """Architectures and stored sizes of a model that may not be there yet. `llama`, `clip`: fields of config.json."""

    name: str
    transformer: StoredPart
    text_encoder: StoredPart
    text_encoder_2: StoredPart
    vae: StoredPart
    transformer_config: TransformerConfig = field(default_factory=TransformerConfig)
    vae_config: VaeConfig = field(default_factory=VaeConfig)
    llama: Mapping[str, int] = field(default_factory=lambda: LLAMA)
    clip: Mapping[str, int] = field(default_factory=lambda: CLIP)


def stored_preset(name: str) -> StoredModel:
    """What `hvlite quantize --transformer fp8|int8|bf16` makes of the released model. ConfigError for another name."""
    if name not in PRESETS:
        raise ConfigError(f"{name!r} is no preset", hint=f"one of {', '.join(PRESETS)}, or the folder of a model")
    return StoredModel(
        name,
        _stored("transformer", PRESETS[name], expected_transformer_shapes(TransformerConfig())),
        _stored("text_encoder", "nf4", expected_llama_shapes(LLAMA)),
        _stored("text_encoder_2", "fp16", expected_clip_text_shapes(CLIP)),
        _stored("vae", "fp16", expected_vae_shapes(VaeConfig())),
    )


def _stored(part: str, recipe: str, shapes: Shapes) -> StoredPart:
    chosen = builtin_recipes(part)[recipe]
    return StoredPart(shapes, {name: chosen.choose(name).scheme.name for name in shapes})
