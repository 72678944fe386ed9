"""Which family's names a file uses, and what else it looks like when it is not HunyuanVideo's transformer."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Literal

from ...errors import CheckpointError
from .keymap import Spelling, comfyui_recipe, diffusers_recipe, official_recipe

NamesLayout = Literal["official", "comfyui", "diffusers"]
SPELLINGS: dict[NamesLayout, Spelling] = {
    "official": official_recipe,
    "comfyui": comfyui_recipe,
    "diffusers": diffusers_recipe,
}

# one name of each, beside the token refiner that Flux and its relatives lack
_ANCHORS: tuple[tuple[NamesLayout, str, str], ...] = (
    (
        "official",
        r"^(double_blocks\.\d+\.img_attn_qkv|single_blocks\.\d+\.modulation\.linear)\.",
        r"^txt_in\.individual_token_refiner\.",
    ),
    (
        "comfyui",
        r"^(double_blocks\.\d+\.img_attn\.qkv|single_blocks\.\d+\.modulation\.lin)\.",
        r"^txt_in\.individual_token_refiner\.",
    ),
    (
        "diffusers",
        r"^(single_)?transformer_blocks\.\d+\.attn\.(add_q_proj|to_q)\.",
        r"^context_embedder\.token_refiner\.",
    ),
)

# the first whose pattern some name matches; relatives of HunyuanVideo that share its names come before the anchors
_RELATIVES: tuple[tuple[str, str], ...] = (
    (r"\.lora_(A|B|up|down)\.|\.lora_(A|B|up|down)$|\.hada_w1_|\.lokr_w1", "a LoRA, not a whole model"),
    (r"\.weight\._data$|\.weight\._scale$", "a model quantized by optimum-quanto"),
    (r"\.weight\.(absmax|quant_map|quant_state|nested_absmax)", "a model quantized by bitsandbytes"),
    (r"\.(qweight|qzeros)$", "a model quantized by GPTQ or AWQ"),
    (r"^(vision_in|cond_type_embed|context_embedder_2|image_embedder\.proj)", "HunyuanVideo-1.5"),
    (r"^byt5_in\.", "HunyuanImage, an image model"),
    (r"^(clean_x_embedder|image_projection)\.", "FramePack"),
    (
        r"^(audio_proj|motion_exp|ref_in|before_proj)\.",
        "a HunyuanVideo variant with extra conditions (Avatar or Custom)",
    ),
)
_TRANSFORMER = (
    r"^(txt_in\.individual_token_refiner|context_embedder\.token_refiner)\.",
    "the HunyuanVideo transformer",
)
_STRANGERS: tuple[tuple[str, str], ...] = (
    (r"^blocks\.\d+\.self_attn\.q\.|^patch_embedding\.weight$|^condition_embedder\.time_embedder\.", "Wan"),
    (r"^blocks\.\d+\.attn\.qkv_x\.|^transformer_blocks\.\d+\.attn1\.add_q_proj\.", "Mochi"),
    (r"^joint_blocks\.\d+\.", "Stable Diffusion 3, an image model"),
    (
        r"^double_blocks\.\d+\.img_attn\.qkv\.|^transformer_blocks\.\d+\.norm1_context\.linear\.",
        "Flux or a relative, an image model",
    ),
    (r"^transformer_blocks\.\d+\.img_mod\.", "Qwen-Image, an image model"),
    (r"^(patchify_proj\.|scale_shift_table$)", "LTX-Video"),
    (r"^patch_embed\.proj\.|^patch_embed\.text_proj\.", "CogVideoX"),
    (
        r"^(input_blocks|output_blocks|middle_block)\.\d+\.|^down_blocks\.\d+\.attentions\.",
        "Stable Diffusion, an image model",
    ),
    (r"^(encoder|decoder)\.(conv_in|mid|mid_block|down|up|down_blocks|up_blocks)\.", "a VAE"),
    (r"(^|\.)text_model\.encoder\.|^encoder\.layers\.\d+\.self_attn\.out_proj\.", "a CLIP text encoder"),
    (r"^encoder\.block\.\d+\.layer\.", "a T5 text encoder"),
    (r"(^|\.)layers\.\d+\.self_attn\.q_proj\.|^embed_tokens\.", "a Llama-like language model"),
)


def recognize_transformer(names: Collection[str], path: Path) -> NamesLayout:
    """How the file spells the official names. CheckpointError says what else it looks like."""
    refuse(names, _RELATIVES, path, "the HunyuanVideo transformer")
    for layout, blocks, refiner in _ANCHORS:
        if _any(names, blocks) and _any(names, refiner):
            return layout
    refuse(names, _STRANGERS, path, "the HunyuanVideo transformer")
    raise not_recognized(names, path, "the HunyuanVideo transformer")


def refuse_strangers(names: Collection[str], path: Path, expected: str, allowed: str) -> None:
    """Raise where the names look like a known other model; `allowed` is the description that is the right one here."""
    rules = tuple(rule for rule in (*_RELATIVES, _TRANSFORMER, *_STRANGERS) if rule[1] != allowed)
    refuse(names, rules, path, expected)


def refuse(names: Collection[str], rules: Iterable[tuple[str, str]], path: Path, expected: str) -> None:
    """Raise for the first rule (pattern, description) that some name matches."""
    for pattern, description in rules:
        if _any(names, pattern):
            raise CheckpointError(f"{path} looks like {description}; expected {expected}", hint="choose another file")


def not_recognized(names: Collection[str], path: Path, expected: str) -> CheckpointError:
    """The error for names nothing is known about."""
    some = ", ".join(name[:80] for name in list(names)[:3]) or "none at all"
    return CheckpointError(
        f"{path} is not {expected}: its {len(names)} tensors are called {some}", hint="choose another file"
    )


def refuse_image_conditioned(in_channels: int, out_channels: int, path: Path) -> None:
    """Text-to-video models take and give equally many channels; the image-to-video ones take more."""
    if in_channels == out_channels:
        return
    kinds = {33: "the image-to-video model with latent concatenation", 32: "an image-to-video fine-tune (SkyReels)"}
    kind = kinds.get(in_channels, "a model with other inputs")
    raise CheckpointError(
        f"{path} takes {in_channels} channels and gives {out_channels}: it looks like {kind}; expected equally many",
        hint="use the text-to-video checkpoint",
    )


def _any(names: Iterable[str], pattern: str) -> bool:
    search = re.compile(pattern).search
    return any(search(name) for name in names)
