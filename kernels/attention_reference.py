"""The truth of attention in 8 bits, in plain PyTorch. It is also the CPU path; see `quantized_attention`."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from . import reference
from .attention_variant import KEY_BLOCK, AttentionVariant
from .key_layout import BlockPlace, KeyBlocks, KeyLayout
from .reference import LARGEST_CODE, over, widen

ROWS = 256  # of Q at once: a row of logits is as long as the sequence
Rope = tuple[Tensor, Tensor]


def qk_norm_rope(x: Tensor, weight: Tensor | None, rope: Rope | None, eps: float) -> Tensor:
    """See `ops.qk_norm_rope`."""
    x = x if weight is None else reference.rms_norm(x, weight, eps)
    return x if rope is None else reference.apply_rope(x, *rope)


def quantize_queries(
    x: Tensor, weight: Tensor | None, rope: Rope | None, eps: float, factor: float
) -> tuple[Tensor, Tensor]:
    """See `quantized_attention.quantize_queries`; scales times `factor`."""
    codes, scale = _int8(qk_norm_rope(x, weight, rope, eps).float().transpose(1, 2), (3,))
    return codes.contiguous(), scale.flatten(2) * factor


def quantize_keys_(
    codes: Tensor,
    scale: Tensor,
    x: Tensor,
    weight: Tensor | None,
    rope: Rope | None,
    eps: float,
    shift: Tensor,
    place: BlockPlace,
) -> None:
    """See `quantized_attention.quantize_keys_`: x [B, S, H, D] into codes [B, H, keys, D], scale [B, H, blocks]."""
    wide = qk_norm_rope(x, weight, rope, eps).float().transpose(1, 2) - shift[:, :, None]
    for tokens, keys in place.runs(x.shape[1]):
        blocks = slice(keys.start // KEY_BLOCK, -(-keys.stop // KEY_BLOCK))
        part = _whole_blocks(wide[:, :, tokens]).unflatten(2, (-1, KEY_BLOCK))
        found, found_scale = _int8(part, (3, 4))
        codes[:, :, blocks.start * KEY_BLOCK : blocks.stop * KEY_BLOCK] = found.flatten(2, 3)
        scale[:, :, blocks] = found_scale.flatten(2)


def quantize_values_(out: Tensor, v: Tensor, mean: Tensor, place: BlockPlace, variant: AttentionVariant) -> Tensor:
    """See `quantized_attention.quantize_values_`: v [B, S, H, D] -> the scales [B, H, D]."""
    wide = v.float().transpose(1, 2) - mean[:, :, None]
    scale = power_of_two(over(wide.abs().amax(dim=2), variant.v_limit))
    scaled = wide / scale[:, :, None]
    for tokens, keys in place.runs(v.shape[1]):
        part = _whole_blocks(scaled[:, :, tokens]).to(out.dtype)
        _keys_of(out, keys.start, part.shape[2], variant).copy_(part)
    return scale


def align_values_(v: Tensor, factor: Tensor, place: BlockPlace, tokens: int, variant: AttentionVariant) -> None:
    """See `quantized_attention.align_values_`: one span, times `factor` [B, H, D]."""
    for _, keys in place.runs(tokens):
        part = _keys_of(v, keys.start, keys.stop - keys.start, variant)
        part.copy_((part.float() * factor[:, :, None]).to(v.dtype))


def attend(
    codes: Tensor,
    scale: Tensor,
    k: Tensor,
    k_scale: Tensor,
    v: Tensor,
    v_scale: Tensor,
    v_mean: Tensor,
    layout: KeyLayout,
    variant: AttentionVariant,
    dtype: torch.dtype,
    blocks: KeyBlocks | None = None,
) -> Tensor:
    """See `quantized_attention.attend`."""
    keys = widen(k) * k_scale.repeat_interleave(KEY_BLOCK, dim=2)[..., None]
    values = widen(v.transpose(2, 3).contiguous() if variant.is_transposed else v)
    hidden = ~_valid_keys(layout, k.device)
    out = torch.empty(codes.shape[0], codes.shape[2], codes.shape[1], codes.shape[3], dtype=dtype, device=k.device)
    for start in range(0, codes.shape[2], ROWS):
        rows = slice(start, start + ROWS)
        logits = (codes[:, :, rows].float() @ keys.transpose(2, 3)).mul_(scale[:, :, rows, None])
        logits.masked_fill_(hidden, -math.inf)
        if blocks is not None:
            logits.masked_fill_(~_listed(blocks, rows, codes.shape[2], layout.blocks), -math.inf)
        mixed, total = _softmax_product(logits, values, variant)
        found = mixed / total * v_scale[:, :, None] + v_mean[:, :, None]
        out[:, rows] = torch.where(total > 0, found, 0.0 * total).transpose(1, 2).to(dtype)
    return out


def _softmax_product(logits: Tensor, values: Tensor, variant: AttentionVariant) -> tuple[Tensor, Tensor]:
    """P, its largest p_limit, times V, and the sums of P's rows; logits to the base of 2. A row of -inf gives zeros."""
    assert variant.v_dtype is not None
    largest = logits.amax(dim=-1, keepdim=True)
    p = torch.exp2(logits - torch.where(largest == -math.inf, 0.0, largest)) * variant.p_limit
    total = p.sum(dim=-1, keepdim=True)
    p = widen(p.to(variant.v_dtype))
    return (_half_sums(p, values, 32 if variant.is_transposed else 16) if variant.half_sum else p @ values), total


def _half_sums(p: Tensor, values: Tensor, step: int) -> Tensor:
    """p @ values with the products of each 64 keys summed in fp16, `step` at a time, as the tensor cores do."""
    p = p.unflatten(3, (-1, KEY_BLOCK)).transpose(2, 3)  # [B, H, blocks, rows, 64]
    values = values.unflatten(2, (-1, KEY_BLOCK))
    total = torch.zeros(1, dtype=torch.float16)
    for at in range(0, KEY_BLOCK, step):
        total = (total.float() + p[..., at : at + step] @ values[..., at : at + step, :]).half()
    return total.float().sum(dim=2)


def _int8(wide: Tensor, dims: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Codes and scale of fp32 values, one scale over `dims`, which stay as dimensions of one."""
    largest = LARGEST_CODE[torch.int8]
    scale = over(wide.abs().amax(dim=dims, keepdim=True), largest)
    scale = torch.where(scale < torch.finfo(torch.float32).tiny, torch.ones_like(scale), scale)
    return (wide * (1 / scale)).clamp_(-largest, largest).round_().to(torch.int8), scale


def power_of_two(wanted: Tensor) -> Tensor:
    """The least power of two that is not below; 1 for nothing."""
    power = ((wanted.view(torch.int32) + 0x7FFFFF) & 0x7F800000).view(torch.float32)
    return torch.where(wanted < 1e-30, 1.0, power)


def _whole_blocks(x: Tensor) -> Tensor:
    """x [B, H, S, D] with zeros behind, so that S is a multiple of 64."""
    return torch.nn.functional.pad(x, (0, 0, 0, -x.shape[2] % KEY_BLOCK))


def _keys_of(v: Tensor, start: int, count: int, variant: AttentionVariant) -> Tensor:
    """The view [B, H, count, D] of some keys of V."""
    return v[..., start : start + count].transpose(2, 3) if variant.is_transposed else v[:, :, start : start + count]


def _valid_keys(layout: KeyLayout, device: torch.device) -> Tensor:
    valid = torch.zeros(layout.keys, dtype=torch.bool, device=device)
    valid[: layout.full_blocks * KEY_BLOCK] = True
    for index, count in enumerate(layout.tails, layout.full_blocks):
        valid[index * KEY_BLOCK : index * KEY_BLOCK + count] = True
    return valid


def _listed(blocks: KeyBlocks, rows: slice, total: int, key_blocks: int) -> Tensor:
    """Which keys these rows look at: [B, H, rows, keys] bool."""
    position = torch.arange(blocks.ids.shape[-1], device=blocks.ids.device)
    mask = torch.zeros(*blocks.ids.shape[:3], key_blocks, dtype=torch.bool, device=blocks.ids.device)
    mask.scatter_(3, blocks.ids.long(), position < blocks.counts[..., 1:])
    of_row = torch.arange(total, device=mask.device)[rows] // blocks.query_block
    return mask[:, :, of_row].repeat_interleave(KEY_BLOCK, dim=3)
