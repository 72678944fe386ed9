"""A weight -> its scales -> its codes. All of it row by row in fp32, so that rows may be worked on in any order.

The scale is fp32 and the codes come from a true division: multiplying by a reciprocal moves values that lie on a
rounding boundary.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..kernels.ops import dequantize_rows
from .scheme import INT4_GROUP, Scheme, ceil_div

# Fractions of the largest weight that a scale search tries; below 0.8 clipping always cost more than it gained.
SEARCH_STEPS = tuple(1.0 - 0.02 * step for step in range(11))


def amax_scale(rows: Tensor, scheme: Scheme) -> Tensor:
    """The scale that maps each row's largest absolute value onto the largest code. rows: [R, K] fp32 -> [R] fp32.

    A row of zeros gets 1: its codes are zero and nothing is divided by zero.
    """
    scale = rows.abs().amax(dim=1) / scheme.largest
    # A row whose largest value is below 2**-126 * largest would get a scale without full precision, or zero.
    return torch.where(scale < torch.finfo(torch.float32).tiny, torch.ones_like(scale), scale)


def mse_scale(rows: Tensor, scheme: Scheme) -> Tensor:
    """The scale of `SEARCH_STEPS` times the largest value with the least squared error, row by row. [R, K] -> [R]."""
    widest = amax_scale(rows, scheme)
    best, best_error = widest, torch.full_like(widest, torch.inf)
    for step in SEARCH_STEPS:
        scale = widest * step
        error = (dequantize_rows(encode_rows(rows, scale, scheme), scale, torch.float32) - rows).square().sum(dim=1)
        better = error < best_error
        best, best_error = torch.where(better, scale, best), torch.where(better, error, best_error)
    return best


def encode_rows(rows: Tensor, scale: Tensor, scheme: Scheme) -> Tensor:
    """Codes of rows: [R, K] fp32, scale [R] fp32 -> [R, K] fp8 or int8; out of range becomes the largest code."""
    scaled = (rows / scale[:, None]).clamp_(-scheme.largest, scheme.largest)
    if scheme.name == "fp8":
        return scaled.to(torch.float8_e4m3fn)
    return scaled.round_().to(torch.int8)


def to_groups(rows: Tensor) -> Tensor:
    """int4's groups as rows of their own, the last one of a row filled with zeros. [R, K] -> [R * groups, 64]."""
    groups = ceil_div(rows.shape[1], INT4_GROUP)
    padded = torch.nn.functional.pad(rows, (0, groups * INT4_GROUP - rows.shape[1]))
    return padded.view(-1, INT4_GROUP)


def from_groups(groups: Tensor, columns: int) -> Tensor:
    """Back to rows of `columns` columns. [R * groups, 64] -> [R, columns]."""
    return groups.view(-1, ceil_div(columns, INT4_GROUP) * INT4_GROUP)[:, :columns].contiguous()
