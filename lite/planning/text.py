"""Device memory of encoding a prompt: the language model, CLIP, and what a layer adds (arithmetic only)."""

from __future__ import annotations

from . import operators as op
from .model import NF4_BYTES, ModelSizes
from .types import Moment

TEXT_TOKENS = 351  # the official template and the longest prompt


def text_moments(model: ModelSizes, w: int) -> tuple[Moment, Moment]:
    """Both encoders whole on the device; and, where that is too much, the language model layer by layer."""
    layers = model.llama["num_hidden_layers"]
    stored = NF4_BYTES if model.llama_scheme == "nf4" else w
    layer = int(model.llama_layer_elements * stored)
    clip = model.clip_elements * w
    running = layer_bytes(model, w)
    whole = layers * layer + model.embedding_elements * w + clip + running
    return Moment("text encoders", whole), Moment("text encoders, layer by layer", layer + clip + running)


def layer_bytes(model: ModelSizes, w: int, n: int = TEXT_TOKENS) -> int:
    """What a layer of the language model holds while its MLP runs, its own weights apart.

    The residual, its norm and two more of that size; gate and up, and their product or a weight made wide.
    """
    hidden, inner = model.llama["hidden_size"], model.llama["intermediate_size"]
    widened = op.dequantized(hidden * inner, w, model.llama_scheme if model.llama_scheme == "nf4" else _plain(w))
    rows, wide_rows = 4 * n * hidden * w, n * inner * w
    mask_and_positions = n * n * w + 4 * n * (hidden // model.llama["num_attention_heads"]) * op.FP32
    return rows + mask_and_positions + wide_rows + max(2 * wide_rows, widened.peak, widened.out + wide_rows)


def _plain(w: int) -> str:
    return "fp32" if w == op.FP32 else "fp16"
