"""How other tools spell the official names, and what a tensor must go through to become the official one.

A `Recipe` says which source tensors make an official tensor. The only changes are: rows put together (diffusers
splits the fused projections), halves swapped (diffusers stores the final modulation as scale, shift; official is
shift, scale), and 1x1x1 convolution weights taken as matrices (LDM names of the VAE's attention).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

Kind = Literal["same", "rows", "swap_halves", "matrix"]
Spelling = Callable[[str], "Recipe"]

# nested prefixes are stripped one after the other, longest first
TRANSFORMER_PREFIXES = ("model.diffusion_model.", "model.model.", "diffusion_model.", "module.", "transformer.", "net.")
VAE_PREFIXES = ("first_stage_model.", "vae.")
LLAMA_PREFIXES = ("model.language_model.", "language_model.model.", "language_model.", "model.")
CLIP_PREFIXES = ("text_model.",)

_INDEX = re.compile(r"blocks\.(\d+)\.")


@dataclass(frozen=True, slots=True)
class Recipe:
    """Source tensors of one official tensor, by their names without prefix, and what to do with them."""

    kind: Kind
    sources: tuple[str, ...]

    def part_shapes(self, expected: tuple[int, ...], hidden: int) -> list[tuple[int, ...]]:
        """The shapes the sources must have: q, k and v have `hidden` rows each, the MLP's part what is left."""
        if self.kind != "rows":
            return [expected]
        rows = [hidden, hidden, hidden, expected[0] - 3 * hidden][: len(self.sources)]
        return [(count, *expected[1:]) for count in rows]


def strip_prefixes(name: str, prefixes: tuple[str, ...]) -> str:
    """`name` without any of `prefixes`, however nested."""
    while prefix := next((prefix for prefix in prefixes if name.startswith(prefix)), ""):
        name = name[len(prefix) :]
    return name


def official_recipe(name: str) -> Recipe:
    """The recipe of a name that the source spells as we do."""
    return Recipe("same", (name,))


_REFINER = "txt_in.individual_token_refiner.blocks.{i}."
_REFINER_D = "context_embedder.token_refiner.refiner_blocks.{i}."
_DOUBLE = "double_blocks.{i}."
_DOUBLE_D = "transformer_blocks.{i}."
_SINGLE = "single_blocks.{i}."
_SINGLE_D = "single_transformer_blocks.{i}."

# official module -> diffusers modules; several modules are stacked by rows
_DIFFUSERS: dict[str, tuple[str, ...]] = {
    "img_in.proj": ("x_embedder.proj",),
    "time_in.mlp.0": ("time_text_embed.timestep_embedder.linear_1",),
    "time_in.mlp.2": ("time_text_embed.timestep_embedder.linear_2",),
    "guidance_in.mlp.0": ("time_text_embed.guidance_embedder.linear_1",),
    "guidance_in.mlp.2": ("time_text_embed.guidance_embedder.linear_2",),
    "vector_in.in_layer": ("time_text_embed.text_embedder.linear_1",),
    "vector_in.out_layer": ("time_text_embed.text_embedder.linear_2",),
    "txt_in.input_embedder": ("context_embedder.proj_in",),
    "txt_in.t_embedder.mlp.0": ("context_embedder.time_text_embed.timestep_embedder.linear_1",),
    "txt_in.t_embedder.mlp.2": ("context_embedder.time_text_embed.timestep_embedder.linear_2",),
    "txt_in.c_embedder.linear_1": ("context_embedder.time_text_embed.text_embedder.linear_1",),
    "txt_in.c_embedder.linear_2": ("context_embedder.time_text_embed.text_embedder.linear_2",),
    _REFINER + "norm1": (_REFINER_D + "norm1",),
    _REFINER + "norm2": (_REFINER_D + "norm2",),
    _REFINER + "self_attn_qkv": tuple(f"{_REFINER_D}attn.to_{x}" for x in "qkv"),
    _REFINER + "self_attn_proj": (_REFINER_D + "attn.to_out.0",),
    _REFINER + "mlp.fc1": (_REFINER_D + "ff.net.0.proj",),
    _REFINER + "mlp.fc2": (_REFINER_D + "ff.net.2",),
    _REFINER + "adaLN_modulation.1": (_REFINER_D + "norm_out.linear",),
    _DOUBLE + "img_mod.linear": (_DOUBLE_D + "norm1.linear",),
    _DOUBLE + "txt_mod.linear": (_DOUBLE_D + "norm1_context.linear",),
    _DOUBLE + "img_attn_qkv": tuple(f"{_DOUBLE_D}attn.to_{x}" for x in "qkv"),
    _DOUBLE + "txt_attn_qkv": tuple(f"{_DOUBLE_D}attn.add_{x}_proj" for x in "qkv"),
    _DOUBLE + "img_attn_q_norm": (_DOUBLE_D + "attn.norm_q",),
    _DOUBLE + "img_attn_k_norm": (_DOUBLE_D + "attn.norm_k",),
    _DOUBLE + "txt_attn_q_norm": (_DOUBLE_D + "attn.norm_added_q",),
    _DOUBLE + "txt_attn_k_norm": (_DOUBLE_D + "attn.norm_added_k",),
    _DOUBLE + "img_attn_proj": (_DOUBLE_D + "attn.to_out.0",),
    _DOUBLE + "txt_attn_proj": (_DOUBLE_D + "attn.to_add_out",),
    _DOUBLE + "img_mlp.fc1": (_DOUBLE_D + "ff.net.0.proj",),
    _DOUBLE + "img_mlp.fc2": (_DOUBLE_D + "ff.net.2",),
    _DOUBLE + "txt_mlp.fc1": (_DOUBLE_D + "ff_context.net.0.proj",),
    _DOUBLE + "txt_mlp.fc2": (_DOUBLE_D + "ff_context.net.2",),
    _SINGLE + "linear1": (*(f"{_SINGLE_D}attn.to_{x}" for x in "qkv"), _SINGLE_D + "proj_mlp"),
    _SINGLE + "linear2": (_SINGLE_D + "proj_out",),
    _SINGLE + "q_norm": (_SINGLE_D + "attn.norm_q",),
    _SINGLE + "k_norm": (_SINGLE_D + "attn.norm_k",),
    _SINGLE + "modulation.linear": (_SINGLE_D + "norm.linear",),
    "final_layer.linear": ("proj_out",),
    "final_layer.adaLN_modulation.1": ("norm_out.linear",),
}


def diffusers_recipe(name: str) -> Recipe:
    """The recipe of an official transformer name over diffusers' names. KeyError for a name that is not official."""
    module, _, leaf = name.rpartition(".")
    index = _INDEX.search(module + ".")
    pattern = _INDEX.sub("blocks.{i}.", module + ".").removesuffix(".")
    sources = tuple(f"{part.format(i=index[1] if index else '')}.{leaf}" for part in _DIFFUSERS[pattern])
    if pattern == "final_layer.adaLN_modulation.1":
        return Recipe("swap_halves", sources)
    return Recipe("rows" if len(sources) > 1 else "same", sources)


# applied in order; no two official names become equal
_COMFYUI = (
    ("txt_in.t_embedder.mlp.0", "txt_in.t_embedder.in_layer"),
    ("txt_in.t_embedder.mlp.2", "txt_in.t_embedder.out_layer"),
    ("txt_in.c_embedder.linear_1", "txt_in.c_embedder.in_layer"),
    ("txt_in.c_embedder.linear_2", "txt_in.c_embedder.out_layer"),
    ("_mod.linear", "_mod.lin"),
    ("_attn_qkv", "_attn.qkv"),
    ("mlp.fc1", "mlp.0"),
    ("mlp.fc2", "mlp.2"),
    ("_attn_q_norm.", "_attn.norm.query_norm."),
    ("_attn_k_norm.", "_attn.norm.key_norm."),
    (".q_norm.", ".norm.query_norm."),
    (".k_norm.", ".norm.key_norm."),
    ("_attn_proj", "_attn.proj"),
    (".modulation.linear", ".modulation.lin"),
    ("_in.mlp.0", "_in.in_layer"),
    ("_in.mlp.2", "_in.out_layer"),
)


def comfyui_recipe(name: str) -> Recipe:
    """The recipe of an official transformer name over ComfyUI's names, as `comfyui_canonical` spells them."""
    for official, comfyui in _COMFYUI:
        name = name.replace(official, comfyui)
    return Recipe("same", (name,))


def comfyui_canonical(name: str) -> str:
    """Older ComfyUI files call the weight of a q/k norm `.scale`."""
    return name.removesuffix(".scale") + ".weight" if name.endswith("_norm.scale") else name


_LDM = (
    (r"\.mid_block\.resnets\.0\.", ".mid.block_1."),
    (r"\.mid_block\.resnets\.1\.", ".mid.block_2."),
    (r"\.mid_block\.attentions\.0\.group_norm\.", ".mid.attn_1.norm."),
    (r"\.mid_block\.attentions\.0\.to_out\.0\.", ".mid.attn_1.proj_out."),
    (r"\.mid_block\.attentions\.0\.to_([qkv])\.", r".mid.attn_1.\1."),
    (r"\.down_blocks\.(\d)\.downsamplers\.0\.", r".down.\1.downsample."),
    (r"\.up_blocks\.(\d)\.upsamplers\.0\.", r".up.\1.upsample."),
    (r"\.(down|up)_blocks\.(\d)\.resnets\.(\d)\.", r".\1.\2.block.\3."),
    (r"\.conv_shortcut\.", ".nin_shortcut."),
    (r"\.conv_norm_out\.", ".norm_out."),
)
_MATRICES = re.compile(r"\.mid\.attn_1\.(q|k|v|proj_out)\.weight")


def ldm_recipe(name: str) -> Recipe:
    """The recipe of an official VAE name over LDM (ComfyUI) names. LDM counts the up blocks from the finest."""
    for official, ldm in _LDM:
        name = re.sub(official, ldm, name)
    name = re.sub(r"\.up\.(\d)\.", lambda match: f".up.{3 - int(match[1])}.", name)
    return Recipe("matrix" if _MATRICES.search(name) else "same", (name,))
