"""Modulation of an hvlite folder: computed layer by layer, so that no more than one layer's weights is ever there.

It is 27 % of the block weights and acts on one vector a step.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from ...quantize.format import HvliteTransformer
from ...quantize.source import check_finite
from ..models.blocks import Modulate, Modulation
from .transformer_blocks import BlockModulation


def compute_modulation(source: HvliteTransformer, vec: Tensor) -> Iterator[BlockModulation]:
    """vec [B, hidden] -> the modulation of each block, each tensor [B, hidden], double blocks first."""
    for index in range(source.config.mm_double_blocks_depth):
        video, text = (_layer(source, f"double_blocks.{index}.{name}_mod", 2, vec) for name in ("img", "txt"))
        yield video, text
    for index in range(source.config.mm_single_blocks_depth):
        (modulation,) = _layer(source, f"single_blocks.{index}.modulation", 1, vec)
        yield modulation


@torch.no_grad()
def _layer(source: HvliteTransformer, name: str, branches: int, vec: Tensor) -> tuple[Modulation, ...]:
    with torch.device("meta"):
        layer = Modulate(vec.shape[-1], branches)
    for leaf in ("weight", "bias"):
        tensor = source.read_dequantized(f"{name}.linear.{leaf}", vec.dtype)
        check_finite(tensor, f"{name}.linear.{leaf}", source.path_of(f"{name}.linear.{leaf}"))
        setattr(layer.linear, leaf, nn.Parameter(tensor.to(vec.device), requires_grad=False))
    modulation: tuple[Modulation, ...] = layer(vec)
    return modulation
