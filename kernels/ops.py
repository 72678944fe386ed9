"""The operations the model is made of. Public, checked, one name each; `reference` holds what they compute.

Shapes: B samples, S tokens, H heads, D head dimension, C channels.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..errors import ConfigError
from . import attention_library, attention_reference, library, quantized_attention, reference
from .attention_variant import HEAD_DIMS, AttentionVariant
from .capability import capability_of, runs_kernels
from .mm_choice import choose_mm
from .sdpa import sdpa


def joint_attention(q: Tensor, k: Tensor, v: Tensor, variant: AttentionVariant | None = None) -> Tensor:
    """Full attention over video and text tokens. q: [B, S, H, D], k and v: [B, K, H, D] -> [B, S, H, D].

    `variant`: our kernel in that form (its PyTorch reference where there is no kernel); None: PyTorch's own attention.
    """
    if q.ndim != 4 or k.shape != v.shape or q.shape[0] != k.shape[0] or q.shape[2:] != k.shape[2:]:
        raise ConfigError(
            f"attention over q {list(q.shape)}, k {list(k.shape)}, v {list(v.shape)}; expected [B, S, H, D]"
        )
    if variant is not None and variant.is_quantized:
        return quantized_attention.joint_attention(q, k, v, variant)
    if variant is not None and runs_kernels(q.device):
        return attention_library.joint_attention(q, k, v)
    return sdpa(q, k, v)


def qk_norm_rope(x: Tensor, weight: Tensor | None, rope: tuple[Tensor, Tensor] | None, eps: float = 1e-6) -> Tensor:
    """`rms_norm` (where there is a weight), then `apply_rope` (where there is a table), of Q or K [B, S, H, D]."""
    if rope is not None and rope[0].shape != (x.shape[1], x.shape[3] // 2):
        raise ConfigError(f"rotary table {list(rope[0].shape)} does not fit x {list(x.shape)}; expected [S, D/2]")
    if runs_kernels(x.device) and x.shape[3] in HEAD_DIMS:
        return attention_library.qk_norm_rope(x, weight, *(rope or (None, None)), eps)
    return attention_reference.qk_norm_rope(x, weight, rope, eps)


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
    if runs_kernels(x.device):
        return library.modulated_norm(x, shift, scale, eps)
    return reference.modulated_norm(x, shift, scale, eps)


def modulated_norm_codes(
    x: Tensor, shift: Tensor, scale: Tensor, dtype: torch.dtype, eps: float = 1e-6
) -> tuple[Tensor, Tensor]:
    """`modulated_norm`, then `quantize_tokens` of its fp32 values: codes [B, S, C] int8 or e4m3fn, scale [B, S]."""
    if runs_kernels(x.device):
        return library.modulated_norm_codes(x, shift, scale, eps, dtype)
    return reference.modulated_norm_codes(x, shift, scale, eps, dtype)


def gated_residual(x: Tensor, branch: Tensor, gate: Tensor) -> Tensor:
    """x + gate * branch. x, branch: [B, S, C]; gate: [B, C]."""
    return reference.gated_residual(x, branch, gate)


def gated_residual_(x: Tensor, branch: Tensor, gate: Tensor) -> Tensor:
    """x += gate * branch, in place; returns x. x, branch: [B, S, C]; gate: [B, C]."""
    if runs_kernels(x.device):
        library.gated_residual_(x, branch, gate)
        return x
    return reference.gated_residual_(x, branch, gate)


def gelu_tanh(x: Tensor) -> Tensor:
    """GELU in its tanh form (the erf form differs by up to 5e-4, enough to fail parity)."""
    return library.gelu_tanh(x) if runs_kernels(x.device) else reference.gelu_tanh(x)


def gelu_tanh_(x: Tensor) -> Tensor:
    """`gelu_tanh` in place; returns x."""
    if runs_kernels(x.device):
        library.gelu_tanh_(x)
        return x
    return reference.gelu_tanh_(x)


def quantize_tokens(x: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """One scale for each token, its largest value over the largest code (a token of zeros gets 1).

    x: [..., K]; dtype: int8 or e4m3fn -> codes [..., K], scale [...] fp32.
    """
    if runs_kernels(x.device):
        return library.quantize_tokens(x, dtype, x.shape[-1])
    return reference.quantize_tokens(x, dtype)


def gelu_codes_(x: Tensor, dtype: torch.dtype, gelu_from: int = 0) -> tuple[Tensor, Tensor]:
    """`quantize_tokens` of x whose channels from `gelu_from` on went through `gelu_tanh`, in fp32.

    x [..., K] is used up: on a card the codes lie in its memory, rows as far apart as x's were.
    """
    if runs_kernels(x.device):
        scale = library.gelu_codes_(x, dtype, gelu_from)
        return x.view(dtype).narrow(-1, 0, x.shape[-1]), scale
    return reference.gelu_codes(x, dtype, gelu_from)


def dequantize_rows(codes: Tensor, scale: Tensor, dtype: torch.dtype) -> Tensor:
    """codes[i] * scale[i]. codes: [N, K] int8 or e4m3fn, scale: [N] fp32 -> [N, K] in `dtype`, rounded once."""
    if codes.ndim != 2 or scale.shape != codes.shape[:1]:
        raise ConfigError(f"codes {list(codes.shape)} with scales {list(scale.shape)}; expected [N, K] and [N]")
    return reference.dequantize_rows(codes, scale, dtype)


def int8_mm(
    x: Tensor,
    x_scale: Tensor,
    weight: Tensor,
    weight_scale: Tensor,
    bias: Tensor | None = None,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """x @ weight.T of int8 codes, summed in int32, times both scales, plus bias, rounded once -> [M, N] in `dtype`.

    x: [M, K] int8, x_scale: [M] fp32; weight: [N, K] int8, weight_scale: [N] fp32; bias: [N].
    """
    _check_mm(x, x_scale, weight, weight_scale)
    if not runs_kernels(x.device):
        return reference.int8_mm(x, x_scale, weight, weight_scale, bias).to(dtype)
    return _ours(x, x_scale, weight, weight_scale, bias, dtype)


def fp8_mm(
    x: Tensor,
    x_scale: Tensor,
    weight: Tensor,
    weight_scale: Tensor,
    bias: Tensor | None = None,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """x @ weight.T of e4m3fn codes, summed in fp32, times both scales, plus bias -> [M, N]. Shapes: `int8_mm`."""
    _check_mm(x, x_scale, weight, weight_scale)
    if not runs_kernels(x.device):
        return reference.fp8_mm(x, x_scale, weight, weight_scale, bias).to(dtype)
    choice = choose_mm("fp8_mm", capability_of(x.device))
    if choice is not None and choice.kernel == "torch" and dtype == torch.bfloat16 and _scaled_mm_takes(weight):
        scales = (x_scale[:, None], weight_scale[None])
        narrow = None if bias is None else bias.to(dtype)
        return torch._scaled_mm(x, weight.t(), *scales, bias=narrow, out_dtype=dtype, use_fast_accum=True)
    return _ours(x, x_scale, weight, weight_scale, bias, dtype)


def w8a16_mm(x: Tensor, weight: Tensor, weight_scale: Tensor, bias: Tensor | None = None) -> Tensor:
    """x @ dequantized weight.T + bias -> [..., N] in x's dtype. x: [..., K]; weight: [N, K] int8 or e4m3fn codes."""
    if not runs_kernels(x.device) or x.dtype == torch.float32:
        return reference.w8a16_mm(x, weight, weight_scale, bias)
    return _ours(x.flatten(0, -2), None, weight, weight_scale, bias, x.dtype).view(*x.shape[:-1], weight.shape[0])


def codes_mm_(
    out: Tensor,
    x: Tensor,
    x_scale: Tensor | None,
    weight: Tensor,
    weight_scale: Tensor,
    bias: Tensor | None = None,
    gate: Tensor | None = None,
    *,
    gelu: bool = False,
) -> Tensor:
    """A product of codes written into `out` [..., N], which may be a view, or added to it; returns `out`.

    x: [M, K] codes with x_scale [M], or 16-bit activations without one. `gelu`: its GELU; `gate` [B, N]:
    out += gate * product.
    """
    if runs_kernels(out.device) and x.dtype != torch.float32:
        library.codes_mm_(out, x, x_scale, weight, weight_scale, bias, gate, gelu)
    else:
        reference.codes_mm_(out, x, x_scale, weight, weight_scale, bias, gate, gelu)
    return out


def _ours(
    x: Tensor, x_scale: Tensor | None, weight: Tensor, weight_scale: Tensor, bias: Tensor | None, dtype: torch.dtype
) -> Tensor:
    out = torch.empty(x.shape[0], weight.shape[0], dtype=dtype, device=x.device)
    library.codes_mm_(out, x, x_scale, weight, weight_scale, bias, None, False)
    return out


def _scaled_mm_takes(weight: Tensor) -> bool:
    """torch._scaled_mm wants both sides of a weight in multiples of 16, and its first code at one in memory."""
    return weight.shape[0] % 16 == 0 and weight.shape[1] % 16 == 0 and weight.storage_offset() % 16 == 0


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


def group_norm_silu(x: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float) -> Tensor:
    """SiLU(GroupNorm(x)), statistics in fp32. x: [B, C, ...]; weight, bias: [C] -> x's shape and dtype."""
    if not runs_kernels(x.device):
        return reference.group_norm_silu(x, weight, bias, groups, eps)
    mean, variance = library.group_moments(x, groups)
    return library.scale_shift_silu(x, *reference.scale_shift(mean, variance, weight, bias, eps))


def group_moments(x: Tensor, groups: int) -> tuple[Tensor, Tensor]:
    """Mean and variance of each group of channels, fp32. x: [B, C, ...] -> [B, G] both."""
    return library.group_moments(x, groups) if runs_kernels(x.device) else reference.group_moments(x, groups)


def scale_shift(mean: Tensor, variance: Tensor, weight: Tensor, bias: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """What a GroupNorm multiplies and adds: moments [B, G], weight and bias [C] -> scale and shift [B, C] fp32."""
    return reference.scale_shift(mean, variance, weight, bias, eps)


def scale_shift_silu(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """SiLU(x * scale + shift), in fp32, back in x's dtype. x: [B, C, ...]; scale, shift: [B, C] fp32."""
    if runs_kernels(x.device):
        return library.scale_shift_silu(x, scale, shift)
    return reference.scale_shift_silu(x, scale, shift)
