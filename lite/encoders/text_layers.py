"""The language model with one layer's weights in memory at a time: what a card smaller than the model runs.

A layer's weights are read from disk when it is about to run and are gone when it has; the table of token embeddings
stays in host memory, where a prompt needs a few of its rows.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ...errors import CheckpointError
from ...quantize.source import AnyTextSource, HvliteSource, check_finite
from ..models.linear import Nf4Linear

OpenSource = Callable[[], AnyTextSource]


class HostEmbedding(nn.Module):
    """Rows of a table that stays in host memory: ids [B, L] on any device -> [B, L, hidden] there."""

    def __init__(self, table: Tensor) -> None:
        super().__init__()
        self.table = table  # not a buffer: `to` must not move it

    def forward(self, ids: Tensor) -> Tensor:
        return self.table[ids.to(self.table.device)].to(ids.device)


def bind_by_layer(model: Any, open_source: OpenSource, *, device: torch.device, dtype: torch.dtype) -> None:
    """Make a LlamaModel on the meta device runnable on `device`. CheckpointError, here or when a layer is read."""
    with open_source() as source:
        table = _read(source, "embed_tokens.weight", dtype)
        if table.shape != model.embed_tokens.weight.shape:
            found, expected = list(table.shape), list(model.embed_tokens.weight.shape)
            raise CheckpointError(f"{source.paths[0]}: embed_tokens.weight is {found}, expected {expected}")
    model.embed_tokens = HostEmbedding(table)
    for index, layer in enumerate(model.layers):
        layer.register_forward_pre_hook(_Arrival(open_source, f"layers.{index}.", device, dtype), with_kwargs=True)
        layer.register_forward_hook(_leave)


class _Arrival:
    """Gives a layer its weights."""

    def __init__(self, open_source: OpenSource, prefix: str, device: torch.device, dtype: torch.dtype) -> None:
        self._open_source, self._prefix, self._device, self._dtype = open_source, prefix, device, dtype

    @torch.no_grad()
    def __call__(self, layer: nn.Module, args: Any, kwargs: Any) -> None:
        with self._open_source() as source:
            for name in [name for name in source.names() if name.startswith(self._prefix)]:
                self._bind(layer, source, name)

    def _bind(self, layer: nn.Module, source: AnyTextSource, name: str) -> None:
        module, _, leaf = name.removeprefix(self._prefix).rpartition(".")
        scheme = source.scheme(name).name if isinstance(source, HvliteSource) else ""
        if isinstance(source, HvliteSource) and scheme == "nf4":
            packed, absmax, values = (part.to(self._device) for part in source.read_nf4(name))
            rows, columns = source.info(name).shape
            layer.set_submodule(module, Nf4Linear(packed, absmax, values, (rows, columns)))
            return
        tensor = _read(source, name, self._dtype)
        setattr(layer.get_submodule(module), leaf, nn.Parameter(tensor.to(self._device), requires_grad=False))


def _leave(layer: nn.Module, args: Any, result: Any) -> None:
    """The layer has run: its weights go, its shapes stay."""
    layer.to("meta")


def _read(source: AnyTextSource, name: str, dtype: torch.dtype) -> Tensor:
    tensor = source.read_dequantized(name, dtype)
    check_finite(tensor, name, source.paths[0])
    return tensor
