"""The blocks of a transformer as a step runs them, wherever their weights are."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from ...quantize.architecture import TransformerConfig
from ..models.blocks import Modulation
from ..models.transformer import HunyuanVideoTransformer
from .tiers import TierCounts

DoubleModulation = tuple[tuple[Modulation, ...], tuple[Modulation, ...]]
BlockModulation = DoubleModulation | Modulation


class Blocks(Protocol):
    """Double blocks, then single blocks, in the model's order."""

    @property
    def tiers(self) -> TierCounts:
        """How many of them are where."""

    def modulate(self, vec: Tensor) -> Iterator[BlockModulation]:
        """vec [B, hidden] -> each block's modulation, each tensor [B, hidden]."""

    def each(self) -> Iterator[nn.Module]:
        """The blocks, each with its weights until the next is asked for."""

    def close(self) -> None:
        """Let the weights go."""


class ResidentBlocks:
    """The blocks of a model whose weights are all on the device."""

    def __init__(self, model: HunyuanVideoTransformer) -> None:
        self._model = model

    @property
    def tiers(self) -> TierCounts:
        return TierCounts(resident=len(self._model.doubles) + len(self._model.singles))

    def modulate(self, vec: Tensor) -> Iterator[BlockModulation]:
        for double in self._model.doubles:
            yield double.modulation(vec)
        for single in self._model.singles:
            (modulation,) = single.modulation(vec)
            yield modulation

    def each(self) -> Iterator[nn.Module]:
        yield from self._model.doubles
        yield from self._model.singles

    def close(self) -> None:
        return None


@dataclass(frozen=True)
class LoadedTransformer:
    """A transformer ready for steps: `model` holds what is outside of the blocks, and may hold them too."""

    model: HunyuanVideoTransformer
    blocks: Blocks

    @property
    def config(self) -> TransformerConfig:
        return self.model.config

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the residual stream."""
        return self.model.dtype

    @property
    def device(self) -> torch.device:
        return self.model.device

    def close(self) -> None:
        self.blocks.close()
