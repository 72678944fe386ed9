"""The truth of every operation, in plain PyTorch. It is also the CPU path.

Islands of fp32 follow the official GPU path under autocast: normalisation statistics, modulation and the rotary
embedding are computed in fp32 and come back to the dtype of their input before they leave the function.
"""

from __future__ import annotations

from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

LARGEST_CODE = {torch.int8: 127.0, torch.float8_e4m3fn: 448.0}
NF4_BLOCK = 64
LEAST_INT_MM_ROWS = 17  # torch._int_mm on CUDA refuses fewer: a short prompt has fewer tokens


def joint_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """See `ops.joint_attention`."""
    out = F.scaled_dot_product_attention(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2))
    return out.transpose(1, 2)


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """See `ops.rms_norm`."""
    wide = x.float()
    wide = wide * torch.rsqrt(wide.square().mean(dim=-1, keepdim=True) + eps)
    return wide.to(x.dtype) * weight


def apply_rope(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """See `ops.apply_rope`."""
    even, odd = x.float().unflatten(-1, (-1, 2)).unbind(-1)
    cos, sin = cos[:, None, :], sin[:, None, :]
    return torch.stack([even * cos - odd * sin, odd * cos + even * sin], dim=-1).flatten(-2).to(x.dtype)


def modulated_norm(x: Tensor, shift: Tensor, scale: Tensor, eps: float) -> Tensor:
    """See `ops.modulated_norm`."""
    normed = F.layer_norm(x.float(), x.shape[-1:], eps=eps)
    return torch.addcmul(shift[:, None].float(), normed, 1 + scale[:, None].float()).to(x.dtype)


def modulated_norm_codes(
    x: Tensor, shift: Tensor, scale: Tensor, eps: float, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """See `ops.modulated_norm_codes`."""
    return quantize_tokens(modulated_norm(x.float(), shift, scale, eps), dtype)


def gated_residual(x: Tensor, branch: Tensor, gate: Tensor) -> Tensor:
    """See `ops.gated_residual`."""
    return torch.addcmul(x, branch, gate[:, None])


def gated_residual_(x: Tensor, branch: Tensor, gate: Tensor) -> Tensor:
    """See `ops.gated_residual_`."""
    return x.addcmul_(branch, gate[:, None])


def gelu_tanh(x: Tensor) -> Tensor:
    """See `ops.gelu_tanh`."""
    return F.gelu(x, approximate="tanh")


def dequantize_rows(codes: Tensor, scale: Tensor, dtype: torch.dtype) -> Tensor:
    """See `ops.dequantize_rows`."""
    return widen(codes).mul_(scale[:, None]).to(dtype)


def widen(codes: Tensor) -> Tensor:
    """int8 or e4m3fn codes -> fp32, exact. A table makes fp8 eight times as fast on a CPU as torch's own cast."""
    if codes.dtype == torch.float8_e4m3fn and codes.device.type == "cpu":
        index = codes.view(torch.uint8).reshape(-1).to(torch.int32)
        return torch.index_select(_fp8_values(), 0, index).view(codes.shape)
    return codes.float()


@cache
def _fp8_values() -> Tensor:
    return torch.arange(256, dtype=torch.uint8).view(torch.float8_e4m3fn).float()


def quantize_tokens(x: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """See `ops.quantize_tokens`."""
    largest = LARGEST_CODE[dtype]
    wide = x.float()
    scale = over(wide.abs().amax(dim=-1), largest)
    scale = torch.where(scale < torch.finfo(torch.float32).tiny, torch.ones_like(scale), scale)
    scaled = (wide * (1 / scale)[..., None]).clamp_(-largest, largest)
    return (scaled.round_() if dtype == torch.int8 else scaled).to(dtype), scale


def over(x: Tensor, divisor: float) -> Tensor:
    """x / divisor, rounded once. By a number, torch on CUDA multiplies with its reciprocal: up to an ulp beside it."""
    return x / torch.full_like(x, divisor)


def gelu_codes(x: Tensor, dtype: torch.dtype, gelu_from: int) -> tuple[Tensor, Tensor]:
    """See `ops.gelu_codes_`."""
    wide = x.float()
    return quantize_tokens(torch.cat([wide[..., :gelu_from], gelu_tanh(wide[..., gelu_from:])], dim=-1), dtype)


def int8_mm(x: Tensor, x_scale: Tensor, weight: Tensor, weight_scale: Tensor, bias: Tensor | None) -> Tensor:
    """See `ops.int8_mm`; fp32."""
    enough = F.pad(x, (0, 0, 0, max(0, LEAST_INT_MM_ROWS - x.shape[0])))
    return _rescale(torch._int_mm(enough, weight.t())[: x.shape[0]].float(), x_scale, weight_scale, bias)


def fp8_mm(x: Tensor, x_scale: Tensor, weight: Tensor, weight_scale: Tensor, bias: Tensor | None) -> Tensor:
    """See `ops.fp8_mm`; fp32."""
    return _rescale(widen(x) @ widen(weight).t(), x_scale, weight_scale, bias)


def w8a16_mm(x: Tensor, weight: Tensor, weight_scale: Tensor, bias: Tensor | None) -> Tensor:
    """See `ops.w8a16_mm`."""
    bias = None if bias is None else bias.to(x.dtype)
    return F.linear(x, dequantize_rows(weight, weight_scale, x.dtype), bias)


def codes_mm_(
    out: Tensor,
    x: Tensor,
    x_scale: Tensor | None,
    weight: Tensor,
    weight_scale: Tensor,
    bias: Tensor | None,
    gate: Tensor | None,
    gelu: bool,
) -> None:
    """See `ops.codes_mm_`."""
    if x_scale is None:
        product = w8a16_mm(x, weight, weight_scale, bias)
    else:
        product = (int8_mm if x.dtype == torch.int8 else fp8_mm)(x, x_scale, weight, weight_scale, bias)
    product = gelu_tanh_(product) if gelu else product
    product = product.to(out.dtype).view(out.shape)
    if gate is None:
        out.copy_(product)
    else:
        gated_residual_(out, product, gate)


def _rescale(product: Tensor, x_scale: Tensor, weight_scale: Tensor, bias: Tensor | None) -> Tensor:
    out = product * x_scale[:, None] * weight_scale
    return out if bias is None else out + bias.float()


def group_norm_silu(x: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float) -> Tensor:
    """See `ops.group_norm_silu`."""
    return F.silu(F.group_norm(x, groups, weight, bias, eps))


def group_moments(x: Tensor, groups: int) -> tuple[Tensor, Tensor]:
    """See `ops.group_moments`."""
    variance, mean = torch.var_mean(x.flatten(1).unflatten(1, (groups, -1)).float(), dim=2, correction=0)
    return mean, variance


def scale_shift(mean: Tensor, variance: Tensor, weight: Tensor, bias: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """What a GroupNorm multiplies and adds, channel by channel: moments [B, G], weight and bias [C] -> [B, C] fp32."""
    repeats = weight.shape[0] // mean.shape[1]
    scale = torch.rsqrt(variance + eps).repeat_interleave(repeats, dim=1) * weight.float()
    return scale, bias.float() - mean.repeat_interleave(repeats, dim=1) * scale


def scale_shift_silu(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """See `ops.scale_shift_silu`."""
    inner = (..., *(None,) * (x.ndim - 2))
    wide = x.to(torch.float32, copy=True).mul_(scale[inner]).add_(shift[inner])
    return F.silu(wide, inplace=True).to(x.dtype)


def dequantize_nf4(
    packed: Tensor, absmax: Tensor, values: Tensor, shape: tuple[int, int], dtype: torch.dtype
) -> Tensor:
    """See `ops.dequantize_nf4`."""
    count = shape[0] * shape[1]
    codes = torch.stack([packed >> 4, packed & 15], dim=-1).view(-1)[:count]
    weights = torch.index_select(values, 0, codes.to(torch.int32))
    blocks = F.pad(weights, (0, absmax.numel() * NF4_BLOCK - count)).view(-1, NF4_BLOCK) * absmax[:, None]
    return blocks.view(-1)[:count].view(shape).to(dtype)


def gelu_tanh_(x: Tensor) -> Tensor:
    """See `ops.gelu_tanh_`."""
    return torch.ops.aten.gelu_(x, approximate="tanh")  # torch.nn.functional has no in-place form
