"""RMSNorm and rotary embedding of Q or K in one pass, with the int8 codes and scales that attention wants.

Every rounding is that of the operations one by one: `rms_norm` rounds to x's dtype before and after its weight, and
`apply_rope` at its end. Codes come from these rounded values.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from .attention_variant import KEY_BLOCK
from .capability import capability_of
from .codes import encode, magnitude_bits, scale_of
from .key_layout import BlockPlace
from .launch import CompileCase, Launch
from .rows import POINTERS
from .tuning import launch_for

LARGEST = 127.0


@triton.jit
def _qk_norm_rope_kernel(
    x, weight, cos, sin, shift, out, scale, tokens, heads, first_block, tail_block, blocks,
    x_batch, x_token, x_head, out_batch, out_head, out_token, eps, factor,
    NORM: tl.constexpr, ROPE: tl.constexpr, CODES: tl.constexpr, D: tl.constexpr, BLOCK: tl.constexpr,
    LIMIT: tl.constexpr,
):  # fmt: skip
    """One program: BLOCK tokens of one head of one sample. CODES: "rows" (of Q, one scale each, times `factor`),
    "blocks" (of K, less `shift`, one scale; full blocks go to `first_block` and on, the rest to `tail_block`), "none".
    """
    part, both = tl.program_id(0), tl.program_id(1)
    sample, head = (both // heads).to(tl.int64), (both % heads).to(tl.int64)
    inner, channel = tl.arange(0, BLOCK), tl.arange(0, D)
    token = part * BLOCK + inner
    inside = token < tokens
    wide_token = token.to(tl.int64)
    at = x + sample * x_batch + head * x_head + wide_token[:, None] * x_token + channel[None, :]
    value = tl.load(at, mask=inside[:, None], other=0.0)
    if NORM:
        wide = value.to(tl.float32)
        wide = wide * tl.rsqrt(tl.sum(wide * wide, 1) / D + eps)[:, None]
        value = wide.to(x.dtype.element_ty) * tl.load(weight + channel)[None, :]
    if ROPE:
        pair = tl.arange(0, D // 2)
        angle = wide_token[:, None] * (D // 2) + pair[None, :]
        c = tl.load(cos + angle, mask=inside[:, None], other=0.0)
        s = tl.load(sin + angle, mask=inside[:, None], other=0.0)
        even, odd = tl.split(tl.reshape(value.to(tl.float32), [BLOCK, D // 2, 2]))
        value = tl.reshape(tl.join(even * c - odd * s, odd * c + even * s), [BLOCK, D]).to(x.dtype.element_ty)
    out += sample * out_batch + head * out_head
    if CODES == "none":
        tl.store(out + wide_token[:, None] * out_token + channel[None, :], value, mask=inside[:, None])
    elif CODES == "rows":
        wide = value.to(tl.float32)
        row_scale = scale_of(tl.max(magnitude_bits(wide), 1), LIMIT)
        codes = encode(wide, tl.div_rn(1.0, row_scale)[:, None], LIMIT, tl.int8)
        tl.store(out + wide_token[:, None] * out_token + channel[None, :], codes, mask=inside[:, None])
        tl.store(scale + both.to(tl.int64) * tokens + token, row_scale * factor, mask=inside)
    else:
        wide = value.to(tl.float32) - tl.load(shift + both.to(tl.int64) * D + channel)[None, :]
        wide = tl.where(inside[:, None], wide, 0.0)
        block_scale = scale_of(tl.max(tl.max(magnitude_bits(wide), 1), 0), LIMIT)
        codes = encode(wide, tl.div_rn(1.0, block_scale), LIMIT, tl.int8)
        block = tl.where((part + 1) * BLOCK <= tokens, first_block + part, tail_block)
        row = (block * BLOCK + inner).to(tl.int64)
        tl.store(out + row[:, None] * out_token + channel[None, :], codes)
        tl.store(scale + both.to(tl.int64) * blocks + block, block_scale)


def qk_norm_rope(x: Tensor, weight: Tensor | None, rope: tuple[Tensor, Tensor] | None, eps: float) -> Tensor:
    """See `ops.qk_norm_rope`: x [B, S, H, D] -> the same, contiguous."""
    out = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    strides = (out.stride(0), out.stride(2), out.stride(1))
    _launch(x, weight, rope, eps, out, strides, "none")
    return out


def quantize_queries(
    x: Tensor, weight: Tensor | None, rope: tuple[Tensor, Tensor] | None, eps: float, factor: float
) -> tuple[Tensor, Tensor]:
    """See `quantized_attention.quantize_queries`."""
    batch, tokens, heads, dim = x.shape
    codes = torch.empty(batch, heads, tokens, dim, dtype=torch.int8, device=x.device)
    scale = torch.empty(batch, heads, tokens, dtype=torch.float32, device=x.device)
    _launch(x, weight, rope, eps, codes, codes.stride()[:3], "rows", scale=scale, factor=factor)
    return codes, scale


def quantize_keys_(
    codes: Tensor,
    scale: Tensor,
    x: Tensor,
    weight: Tensor | None,
    rope: tuple[Tensor, Tensor] | None,
    eps: float,
    shift: Tensor,
    place: BlockPlace,
) -> None:
    """See `quantized_attention.quantize_keys_`."""
    _launch(x, weight, rope, eps, codes, codes.stride()[:3], "blocks", scale=scale, shift=shift, place=place)


def _launch(
    x: Tensor,
    weight: Tensor | None,
    rope: tuple[Tensor, Tensor] | None,
    eps: float,
    out: Tensor,
    out_strides: tuple[int, ...],
    kind: str,
    *,
    scale: Tensor | None = None,
    shift: Tensor | None = None,
    factor: float = 1.0,
    place: BlockPlace | None = None,
) -> None:
    x = x if x.stride(-1) == 1 else x.contiguous()
    batch, tokens, heads, dim = x.shape
    cos, sin = (None, None) if rope is None else (each.contiguous() for each in rope)
    launch = launch_for("qk_norm_rope", capability_of(x.device))
    place = place or BlockPlace(0, 0)
    blocks = 0 if scale is None else scale.shape[-1]
    _qk_norm_rope_kernel[(triton.cdiv(tokens, KEY_BLOCK), batch * heads)](
        x, weight, cos, sin, shift, out, scale, tokens, heads, place.first, place.tail, blocks,
        x.stride(0), x.stride(1), x.stride(2), *out_strides, eps, factor,
        NORM=weight is not None, ROPE=rope is not None, CODES=kind, D=dim, LIMIT=LARGEST,
        **launch.tiles, num_warps=launch.num_warps, num_stages=launch.num_stages,
    )  # fmt: skip


def compile_cases(capability: int) -> list[CompileCase]:
    """With norm and rotation: codes of Q, codes of K, and no codes."""
    launch = launch_for("qk_norm_rope", capability)
    return [_case(capability, launch, kind) for kind in ("rows", "blocks", "none")]


def _case(capability: int, launch: Launch, kind: str) -> CompileCase:
    values = {"NORM": True, "ROPE": True, "CODES": kind, "D": 128, "LIMIT": LARGEST, **launch.tiles}
    out = torch.bfloat16 if kind == "none" else torch.int8
    types = {"x": torch.bfloat16, "weight": torch.bfloat16, "out": out}
    types |= dict.fromkeys(("cos", "sin", "shift", "scale"), torch.float32)
    kinds = {name: POINTERS[dtype] for name, dtype in types.items()}
    kinds |= {"eps": "fp32", "factor": "fp32", **dict.fromkeys(values, "constexpr")}
    names = {"rows": "codes of Q", "blocks": "codes of K", "none": "16-bit"}
    return CompileCase(
        name=f"qk_norm_rope {names[kind]}",
        kernel=_qk_norm_rope_kernel,
        capability=capability,
        signature={each: kinds.get(each, "i32") for each in _qk_norm_rope_kernel.arg_names},
        constexprs=values,
        launch=launch,
        unaligned=("tokens", "heads", "first_block", "tail_block", "blocks"),
    )
