"""The architecture tables: every tensor a model of given dimensions has, under its official name, with its shape."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from typing import Any

from ..architecture import TransformerConfig, VaeConfig

Shapes = dict[str, tuple[int, ...]]

TIMESTEP_CHANNELS = 256  # of the sinusoidal embedding
REFINER_MLP_RATIO = 4  # the official refiner does not take the model's ratio


def _linear(name: str, rows: int, columns: int) -> Shapes:
    return {f"{name}.weight": (rows, columns), f"{name}.bias": (rows,)}


def _mlp(name: str, first: str, second: str, columns: int, hidden: int) -> Shapes:
    return {**_linear(f"{name}.{first}", hidden, columns), **_linear(f"{name}.{second}", hidden, hidden)}


def expected_transformer_shapes(config: TransformerConfig) -> Shapes:
    """All tensors of the transformer; 856 for the released 13B model."""
    h = config.hidden_size
    shapes: Shapes = {"img_in.proj.weight": (h, config.in_channels, *config.patch_size), "img_in.proj.bias": (h,)}
    shapes |= _refiner(config)
    shapes |= _mlp("time_in", "mlp.0", "mlp.2", TIMESTEP_CHANNELS, h)
    shapes |= _mlp("vector_in", "in_layer", "out_layer", config.text_states_dim_2, h)
    if config.guidance_embed:
        shapes |= _mlp("guidance_in", "mlp.0", "mlp.2", TIMESTEP_CHANNELS, h)
    for index in range(config.mm_double_blocks_depth):
        for stream in ("img", "txt"):
            shapes |= _double_stream(f"double_blocks.{index}.{stream}", config)
    for index in range(config.mm_single_blocks_depth):
        shapes |= _single_block(f"single_blocks.{index}", config)
    shapes |= _linear("final_layer.linear", prod(config.patch_size) * config.out_channels, h)
    shapes |= _linear("final_layer.adaLN_modulation.1", 2 * h, h)
    return shapes


def _refiner(config: TransformerConfig) -> Shapes:
    h, text = config.hidden_size, config.text_states_dim
    shapes = _linear("txt_in.input_embedder", h, text)
    shapes |= _mlp("txt_in", "t_embedder.mlp.0", "t_embedder.mlp.2", TIMESTEP_CHANNELS, h)
    shapes |= _mlp("txt_in", "c_embedder.linear_1", "c_embedder.linear_2", text, h)
    for index in range(config.refiner_depth):
        block = f"txt_in.individual_token_refiner.blocks.{index}"
        for norm in ("norm1", "norm2"):
            shapes |= {f"{block}.{norm}.weight": (h,), f"{block}.{norm}.bias": (h,)}
        shapes |= _linear(f"{block}.self_attn_qkv", 3 * h, h) | _linear(f"{block}.self_attn_proj", h, h)
        shapes |= _linear(f"{block}.mlp.fc1", REFINER_MLP_RATIO * h, h) | _linear(
            f"{block}.mlp.fc2", h, REFINER_MLP_RATIO * h
        )
        shapes |= _linear(f"{block}.adaLN_modulation.1", 2 * h, h)
    return shapes


def _double_stream(name: str, config: TransformerConfig) -> Shapes:
    """One stream of a double block; `name` is "double_blocks.<i>.img" or ".txt"."""
    h, mlp = config.hidden_size, config.mlp_hidden_size
    shapes = _linear(f"{name}_mod.linear", 6 * h, h) | _linear(f"{name}_attn_qkv", 3 * h, h)
    if config.qk_norm:
        shapes |= {f"{name}_attn_{x}_norm.weight": (config.head_dim,) for x in "qk"}
    shapes |= _linear(f"{name}_attn_proj", h, h)
    return shapes | _linear(f"{name}_mlp.fc1", mlp, h) | _linear(f"{name}_mlp.fc2", h, mlp)


def _single_block(name: str, config: TransformerConfig) -> Shapes:
    h, mlp = config.hidden_size, config.mlp_hidden_size
    shapes = _linear(f"{name}.linear1", 3 * h + mlp, h) | _linear(f"{name}.linear2", h, h + mlp)
    if config.qk_norm:
        shapes |= {f"{name}.{x}_norm.weight": (config.head_dim,) for x in "qk"}
    return shapes | _linear(f"{name}.modulation.linear", 3 * h, h)


def _conv(name: str, out: int, channels: int, kernel: int = 3) -> Shapes:
    return {f"{name}.weight": (out, channels, kernel, kernel, kernel), f"{name}.bias": (out,)}


def _norm(name: str, channels: int) -> Shapes:
    return {f"{name}.weight": (channels,), f"{name}.bias": (channels,)}


def expected_vae_shapes(config: VaeConfig) -> Shapes:
    """All tensors of the causal 3D VAE; 248 for the released one."""
    latent = config.latent_channels
    shapes = _encoder(config) | _decoder(config)
    return shapes | _conv("quant_conv", 2 * latent, 2 * latent, 1) | _conv("post_quant_conv", latent, latent, 1)


def _encoder(config: VaeConfig) -> Shapes:
    widths = config.block_out_channels
    shapes = _conv("encoder.conv_in.conv", widths[0], config.in_channels)
    before = widths[0]
    for level, width in enumerate(widths):
        block = f"encoder.down_blocks.{level}"
        shapes |= _resnets(block, config.layers_per_block, before, width)
        if level < len(widths) - 1:
            shapes |= _conv(f"{block}.downsamplers.0.conv.conv", width, width)
        before = width
    shapes |= _mid("encoder.mid_block", widths[-1], config) | _norm("encoder.conv_norm_out", widths[-1])
    return shapes | _conv("encoder.conv_out.conv", 2 * config.latent_channels, widths[-1])


def _decoder(config: VaeConfig) -> Shapes:
    widths = config.block_out_channels[::-1]
    shapes = _conv("decoder.conv_in.conv", widths[0], config.latent_channels)
    shapes |= _mid("decoder.mid_block", widths[0], config)
    before = widths[0]
    for level, width in enumerate(widths):
        block = f"decoder.up_blocks.{level}"
        shapes |= _resnets(block, config.layers_per_block + 1, before, width)
        if level < len(widths) - 1:
            shapes |= _conv(f"{block}.upsamplers.0.conv.conv", width, width)
        before = width
    shapes |= _norm("decoder.conv_norm_out", widths[-1])
    return shapes | _conv("decoder.conv_out.conv", config.out_channels, widths[-1])


def _resnets(block: str, count: int, before: int, width: int) -> Shapes:
    shapes: Shapes = {}
    for index in range(count):
        shapes |= _resnet(f"{block}.resnets.{index}", before if index == 0 else width, width)
    return shapes


def _resnet(name: str, before: int, width: int) -> Shapes:
    shapes = _norm(f"{name}.norm1", before) | _conv(f"{name}.conv1.conv", width, before)
    shapes |= _norm(f"{name}.norm2", width) | _conv(f"{name}.conv2.conv", width, width)
    return shapes | (_conv(f"{name}.conv_shortcut.conv", width, before, 1) if before != width else {})


def _mid(name: str, width: int, config: VaeConfig) -> Shapes:
    shapes = _resnet(f"{name}.resnets.0", width, width) | _resnet(f"{name}.resnets.1", width, width)
    if config.mid_block_add_attention:
        shapes |= _norm(f"{name}.attentions.0.group_norm", width)
        for projection in ("to_q", "to_k", "to_v", "to_out.0"):
            shapes |= _linear(f"{name}.attentions.0.{projection}", width, width)
    return shapes


def expected_llama_shapes(config: Mapping[str, Any]) -> Shapes:
    """All tensors of a Llama body by the fields of its config.json, without prefix and without `lm_head`."""
    h, ffn = config["hidden_size"], config["intermediate_size"]
    head_dim = config.get("head_dim", 0) or h // config["num_attention_heads"]
    q, kv = config["num_attention_heads"] * head_dim, config["num_key_value_heads"] * head_dim
    shapes: Shapes = {"embed_tokens.weight": (config["vocab_size"], h), "norm.weight": (h,)}
    for index in range(config["num_hidden_layers"]):
        layer = f"layers.{index}"
        for name, rows, columns in (("q", q, h), ("k", kv, h), ("v", kv, h), ("o", h, q)):
            shapes[f"{layer}.self_attn.{name}_proj.weight"] = (rows, columns)
        for name, rows, columns in (("gate", ffn, h), ("up", ffn, h), ("down", h, ffn)):
            shapes[f"{layer}.mlp.{name}_proj.weight"] = (rows, columns)
        shapes |= {f"{layer}.{norm}_layernorm.weight": (h,) for norm in ("input", "post_attention")}
    return shapes


def expected_clip_text_shapes(config: Mapping[str, Any]) -> Shapes:
    """All tensors of a CLIP text encoder by the fields of its text config, without the prefix `text_model.`.

    196 for CLIP-L.
    """
    h, ffn = config["hidden_size"], config["intermediate_size"]
    shapes: Shapes = {
        "embeddings.token_embedding.weight": (config["vocab_size"], h),
        "embeddings.position_embedding.weight": (config["max_position_embeddings"], h),
    }
    for index in range(config["num_hidden_layers"]):
        layer = f"encoder.layers.{index}"
        for projection in ("k_proj", "v_proj", "q_proj", "out_proj"):
            shapes |= _linear(f"{layer}.self_attn.{projection}", h, h)
        shapes |= _norm(f"{layer}.layer_norm1", h)
        shapes |= _linear(f"{layer}.mlp.fc1", ffn, h) | _linear(f"{layer}.mlp.fc2", h, ffn)
        shapes |= _norm(f"{layer}.layer_norm2", h)
    return shapes | _norm("final_layer_norm", h)
