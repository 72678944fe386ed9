"""The operations the model is made of. Public, checked, one name each; `reference` holds what they compute.

Shapes: B samples, S tokens, H heads, D head dimension, C channels.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..errors import ConfigError
from . import reference


def joint_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Full attention over video and text tokens. q: [B, S, H, D], k and v: [B, K, H, D] -> [B, S, H, D]."""
    if q.ndim != 4 or k.shape != v.shape or q.shape[0] != k.shape[0] or q.shape[2:] != k.shape[2:]:
        raise ConfigError(
            f"attention over q {list(q.shape)}, k {list(k.shape)}, v {list(v.shape)}; expected [B, S, H, D]"
        )
    return reference.joint_attention(q, k, v)


def rms_norm(x: Tensor, weight: Tensor, eps: float = 1e-6) -> Tensor:
    """x / rms(x) * weight over the last dimension: statistics in fp32, the product in x's dtype. x: [..., D]."""
    return reference.rms_norm(x, weight, eps)


def apply_rope(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate interleaved pairs (x0, x1). x: [B, S, H, D]; cos, sin: [S, D/2] fp32 -> [B, S, H, D] (RoFormer)."""
    if cos.shape != (x.shape[1], x.shape[3] // 2):
        raise ConfigError(f"rotary table {list(cos.shape)} does not fit x {list(x.shape)}; expected [S, D/2]")
    return reference.apply_rope(x, cos, sin)


def modulated_norm(x: Tensor, shift: Tensor, scale: Tensor, eps: float = 1e-6) -> Tensor:
    """LayerNorm(x) * (1 + scale) + shift, in fp32, back in x's dtype. x: [B, S, C]; shift, scale: [B, C]."""
    return reference.modulated_norm(x, shift, scale, eps)


def gated_residual(x: Tensor, branch: Tensor, gate: Tensor) -> Tensor:
    """x + gate * branch. x, branch: [B, S, C]; gate: [B, C]."""
    return reference.gated_residual(x, branch, gate)


def gated_residual_(x: Tensor, branch: Tensor, gate: Tensor) -> Tensor:
    """x += gate * branch, in place; returns x. x, branch: [B, S, C]; gate: [B, C]."""
    return reference.gated_residual_(x, branch, gate)


def gelu_tanh(x: Tensor) -> Tensor:
    """GELU in its tanh form (the erf form differs by up to 5e-4, enough to fail parity)."""
    return reference.gelu_tanh(x)


def dequantize_rows(codes: Tensor, scale: Tensor, dtype: torch.dtype) -> Tensor:
    """codes[i] * scale[i]. codes: [N, K] int8 or e4m3fn, scale: [N] fp32 -> [N, K] in `dtype`, rounded once."""
    if codes.ndim != 2 or scale.shape != codes.shape[:1]:
        raise ConfigError(f"codes {list(codes.shape)} with scales {list(scale.shape)}; expected [N, K] and [N]")
    return reference.dequantize_rows(codes, scale, dtype)


def quantize_tokens(x: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """One scale for each token, its largest value over the largest code (a token of zeros gets 1).

    x: [..., K]; dtype: int8 or e4m3fn -> codes [..., K], scale [...] fp32.
    """
    return reference.quantize_tokens(x, dtype)


def int8_mm(x: Tensor, x_scale: Tensor, weight: Tensor, weight_scale: Tensor, bias: Tensor | None = None) -> Tensor:
    """x @ weight.T of int8 codes, summed in int32, times both scales, plus bias -> [M, N] fp32.

    x: [M, K] int8, x_scale: [M] fp32; weight: [N, K] int8, weight_scale: [N] fp32; bias: [N].
    """
    _check_mm(x, x_scale, weight, weight_scale)
    return reference.int8_mm(x, x_scale, weight, weight_scale, bias)


def fp8_mm(x: Tensor, x_scale: Tensor, weight: Tensor, weight_scale: Tensor, bias: Tensor | None = None) -> Tensor:
    """x @ weight.T of e4m3fn codes, summed in fp32, times both scales, plus bias -> [M, N] fp32. Shapes: `int8_mm`."""
    _check_mm(x, x_scale, weight, weight_scale)
    return reference.fp8_mm(x, x_scale, weight, weight_scale, bias)


def _check_mm(x: Tensor, x_scale: Tensor, weight: Tensor, weight_scale: Tensor) -> None:
    shapes = (x.shape[:1], weight.shape[:1], x.shape[1:])
    if x.ndim != 2 or weight.ndim != 2 or (x_scale.shape, weight_scale.shape, weight.shape[1:]) != shapes:
        raise ConfigError(
            f"x {list(x.shape)}, scales {list(x_scale.shape)}, weight {list(weight.shape)}, scales "
            f"{list(weight_scale.shape)}; expected [M, K], [M], [N, K], [N]"
        )
    if x.dtype != weight.dtype:
        raise ConfigError(f"codes of two types, {x.dtype} and {weight.dtype}")


def dequantize_nf4(
    packed: Tensor, absmax: Tensor, values: Tensor, shape: tuple[int, int], dtype: torch.dtype
) -> Tensor:
    """The weight [N, K] in `dtype` of NF4 codes (QLoRA): values[code] * absmax of its block of 64.

    packed: [ceil(N * K / 2)] uint8, the first code in the high half; absmax: [ceil(N * K / 64)], values: [16], fp32.
    """
    count = shape[0] * shape[1]
    if packed.numel() * 2 - count not in (0, 1) or absmax.numel() != -(-count // reference.NF4_BLOCK):
        raise ConfigError(
            f"{packed.numel()} bytes and {absmax.numel()} absmax values do not make a weight {list(shape)}"
        )
    return reference.dequantize_nf4(packed, absmax, values, shape, dtype)


def gelu_tanh_(x: Tensor) -> Tensor:
    """`gelu_tanh` in place; returns x."""
    return reference.gelu_tanh_(x)
