"""The operations of attention as PyTorch sees them (torch.library); see `library` for how, `ops` for what."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.library import custom_op

from . import attention_reference, reference
from .attention_variant import VARIANTS
from .key_layout import BlockPlace, KeyBlocks, KeyLayout
from .launch_device import on_cuda


@custom_op("hvlite::joint_attention", mutates_args=())
def joint_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """See `ops.joint_attention`, 16-bit."""
    return reference.joint_attention(q, k, v).contiguous()


@on_cuda(joint_attention)
def _(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    from .joint_attention import joint_attention as launch

    return launch(q, k, v)


@joint_attention.register_fake
def _(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return torch.empty(q.shape, dtype=q.dtype, device=q.device)


@custom_op("hvlite::qk_norm_rope", mutates_args=())
def qk_norm_rope(x: Tensor, weight: Tensor | None, cos: Tensor | None, sin: Tensor | None, eps: float) -> Tensor:
    """See `ops.qk_norm_rope`."""
    return attention_reference.qk_norm_rope(x, weight, _rope(cos, sin), eps).clone(
        memory_format=torch.contiguous_format
    )


@on_cuda(qk_norm_rope)
def _(x: Tensor, weight: Tensor | None, cos: Tensor | None, sin: Tensor | None, eps: float) -> Tensor:
    from .qk_norm_rope import qk_norm_rope as launch

    return launch(x, weight, _rope(cos, sin), eps)


@qk_norm_rope.register_fake
def _(x: Tensor, weight: Tensor | None, cos: Tensor | None, sin: Tensor | None, eps: float) -> Tensor:
    return torch.empty(x.shape, dtype=x.dtype, device=x.device)


@custom_op("hvlite::quantize_queries", mutates_args=())
def quantize_queries(
    x: Tensor, weight: Tensor | None, cos: Tensor | None, sin: Tensor | None, eps: float, factor: float
) -> tuple[Tensor, Tensor]:
    """See `quantized_attention.quantize_queries`."""
    return attention_reference.quantize_queries(x, weight, _rope(cos, sin), eps, factor)


@on_cuda(quantize_queries)
def _(
    x: Tensor, weight: Tensor | None, cos: Tensor | None, sin: Tensor | None, eps: float, factor: float
) -> tuple[Tensor, Tensor]:
    from .qk_norm_rope import quantize_queries as launch

    return launch(x, weight, _rope(cos, sin), eps, factor)


@quantize_queries.register_fake
def _(
    x: Tensor, weight: Tensor | None, cos: Tensor | None, sin: Tensor | None, eps: float, factor: float
) -> tuple[Tensor, Tensor]:
    shape = (x.shape[0], x.shape[2], x.shape[1])
    codes = torch.empty(*shape, x.shape[3], dtype=torch.int8, device=x.device)
    return codes, torch.empty(shape, dtype=torch.float32, device=x.device)


@custom_op("hvlite::quantize_keys_", mutates_args=("codes", "scale"))
def quantize_keys_(
    codes: Tensor,
    scale: Tensor,
    x: Tensor,
    weight: Tensor | None,
    cos: Tensor | None,
    sin: Tensor | None,
    eps: float,
    shift: Tensor,
    first: int,
    tail: int,
) -> None:
    """See `quantized_attention.quantize_keys_`; first, tail: of a `BlockPlace`."""
    place = BlockPlace(first, tail)
    attention_reference.quantize_keys_(codes, scale, x, weight, _rope(cos, sin), eps, shift, place)


@on_cuda(quantize_keys_)
def _(
    codes: Tensor,
    scale: Tensor,
    x: Tensor,
    weight: Tensor | None,
    cos: Tensor | None,
    sin: Tensor | None,
    eps: float,
    shift: Tensor,
    first: int,
    tail: int,
) -> None:
    from .qk_norm_rope import quantize_keys_ as launch

    launch(codes, scale, x, weight, _rope(cos, sin), eps, shift, BlockPlace(first, tail))


@custom_op("hvlite::quantize_values_", mutates_args=("out",))
def quantize_values_(out: Tensor, v: Tensor, mean: Tensor, first: int, tail: int, variant: str) -> Tensor:
    """See `quantized_attention.quantize_values_`."""
    return attention_reference.quantize_values_(out, v, mean, BlockPlace(first, tail), VARIANTS[variant])


@on_cuda(quantize_values_)
def _(out: Tensor, v: Tensor, mean: Tensor, first: int, tail: int, variant: str) -> Tensor:
    from .quantize_v import quantize_values_ as launch

    return launch(out, v, mean, BlockPlace(first, tail), VARIANTS[variant])


@quantize_values_.register_fake
def _(out: Tensor, v: Tensor, mean: Tensor, first: int, tail: int, variant: str) -> Tensor:
    return torch.empty(mean.shape, dtype=torch.float32, device=v.device)


@custom_op("hvlite::align_values_", mutates_args=("v",))
def align_values_(v: Tensor, factor: Tensor, first: int, tail: int, tokens: int, variant: str) -> None:
    """See `quantized_attention.align_values_`."""
    attention_reference.align_values_(v, factor, BlockPlace(first, tail), tokens, VARIANTS[variant])


@on_cuda(align_values_)
def _(v: Tensor, factor: Tensor, first: int, tail: int, tokens: int, variant: str) -> None:
    from .quantize_v import align_values_ as launch

    launch(v, factor, BlockPlace(first, tail), tokens, VARIANTS[variant])


@custom_op("hvlite::attend", mutates_args=())
def attend(
    codes: Tensor,
    scale: Tensor,
    k: Tensor,
    k_scale: Tensor,
    v: Tensor,
    v_scale: Tensor,
    v_mean: Tensor,
    segments: list[int],
    variant: str,
    dtype: torch.dtype,
    block_ids: Tensor | None,
    block_counts: Tensor | None,
    query_block: int,
) -> Tensor:
    """See `quantized_attention.attend`."""
    layout, blocks = KeyLayout(tuple(segments)), _blocks(block_ids, block_counts, query_block)
    return attention_reference.attend(
        codes, scale, k, k_scale, v, v_scale, v_mean, layout, VARIANTS[variant], dtype, blocks
    )


@on_cuda(attend)
def _(
    codes: Tensor,
    scale: Tensor,
    k: Tensor,
    k_scale: Tensor,
    v: Tensor,
    v_scale: Tensor,
    v_mean: Tensor,
    segments: list[int],
    variant: str,
    dtype: torch.dtype,
    block_ids: Tensor | None,
    block_counts: Tensor | None,
    query_block: int,
) -> Tensor:
    from .joint_attention import attend as launch

    layout, blocks = KeyLayout(tuple(segments)), _blocks(block_ids, block_counts, query_block)
    return launch(codes, scale, k, k_scale, v, v_scale, v_mean, layout, VARIANTS[variant], dtype, blocks)


@attend.register_fake
def _(
    codes: Tensor,
    scale: Tensor,
    k: Tensor,
    k_scale: Tensor,
    v: Tensor,
    v_scale: Tensor,
    v_mean: Tensor,
    segments: list[int],
    variant: str,
    dtype: torch.dtype,
    block_ids: Tensor | None,
    block_counts: Tensor | None,
    query_block: int,
) -> Tensor:
    batch, heads, rows, dim = codes.shape
    return torch.empty(batch, rows, heads, dim, dtype=dtype, device=codes.device)


def _rope(cos: Tensor | None, sin: Tensor | None) -> tuple[Tensor, Tensor] | None:
    return None if cos is None or sin is None else (cos, sin)


def _blocks(ids: Tensor | None, counts: Tensor | None, query_block: int) -> KeyBlocks | None:
    return None if ids is None or counts is None else KeyBlocks(ids, counts, query_block)
