"""What a tile of the decode would be if its norms and its attention saw the whole frame: where seams come from.

A tile's decode differs from the same place of a picture decoded in one piece because a GroupNorm takes its statistics
over the tile, because the attention sees the tile alone, and because convolutions end at its border. Here the first two
are recorded in a decode of the whole and put into that of the tiles, one at a time, to see what each does. A user
cannot have that: the recording needs the memory which tiles save.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from itertools import product
from types import ModuleType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..lite.models import vae as vae_module
from ..lite.models.vae import AutoencoderKLCausal3D, FrameCausalAttention
from ..lite.models.vae_tiles import decode_chunks
from ..lite.tiling import SPACE_RATIO, TileSpec, space_tiles

Moments = tuple[Tensor, Tensor]


class WholeFrame:
    """A decode in one piece that was recorded: latents [1, 16, T, H, W] with one tile's frames at most."""

    def __init__(self, vae: AutoencoderKLCausal3D, latents: Tensor) -> None:
        self._vae, self._latents = vae, latents
        self._moments: dict[nn.GroupNorm, Moments] = {}
        self._attended: dict[nn.Module, tuple[Tensor, Tensor]] = {}
        self._place = (0, 0)
        with self._hooked(self._record_norm, self._record_attention):
            self.video = vae.decode_tile(latents)

    def decode(self, tile: TileSpec, *, statistics: bool = False, attention: bool = False) -> Tensor:
        """The video [1, 3, F, 8H, 8W] in tiles, with the whole frame's norm statistics, its attention, or both."""
        height, width = self._latents.shape[3:]
        rows, columns = space_tiles(height, width, tile, up=SPACE_RATIO)
        places = product(rows.starts, columns.starts)

        def decode_tile(part: Tensor) -> Tensor:
            self._place = next(places)
            return self._vae.decode_tile(part)

        with self._hooked(self._use_norm if statistics else None, self._use_attention if attention else None):
            return torch.cat(list(decode_chunks(decode_tile, self._latents, tile)), dim=2)

    @contextmanager
    def _hooked(
        self,
        norm: Callable[[nn.GroupNorm, Tensor], Tensor] | None,
        attention: Callable[[nn.Module, Any, Any], Tensor | None] | None,
    ) -> Iterator[None]:
        """norm(norm, x) instead of the model's norm with SiLU; `attention` as a hook of every attention."""
        with ExitStack() as undo:
            if norm is not None:
                undo.enter_context(_replaced(vae_module, "norm_silu", norm))
            for module in self._vae.decoder.modules():
                if attention is not None and isinstance(module, FrameCausalAttention):
                    undo.callback(module.register_forward_hook(attention).remove)
            yield

    def _record_norm(self, norm: nn.GroupNorm, x: Tensor) -> Tensor:
        self._moments[norm] = _moments(norm, x)
        return _norm_silu(norm, x, self._moments[norm])

    def _use_norm(self, norm: nn.GroupNorm, x: Tensor) -> Tensor:
        return _norm_silu(norm, x, self._moments[norm])

    def _record_attention(self, module: nn.Module, inputs: tuple[Tensor], output: Tensor) -> None:
        self._attended[module] = (inputs[0], output)

    def _use_attention(self, module: nn.Module, inputs: tuple[Tensor], _: Tensor) -> Tensor:
        """The tile's own residual stream, with what the whole frame's attention adds to it there."""
        (x,), (before, after) = inputs, self._attended[module]
        (top, left), (height, width) = self._place, x.shape[3:]
        return x + (after - before)[..., top : top + height, left : left + width]


@contextmanager
def _replaced(module: ModuleType, name: str, value: Any) -> Iterator[None]:
    before = getattr(module, name)
    setattr(module, name, value)
    try:
        yield
    finally:
        setattr(module, name, before)


def _moments(norm: nn.GroupNorm, x: Tensor) -> Moments:
    """Mean and variance of every group: [B, G, 1] each."""
    grouped = x.float().reshape(x.shape[0], norm.num_groups, -1)
    return grouped.mean(2, keepdim=True), grouped.var(2, keepdim=True, unbiased=False)


def _norm_silu(norm: nn.GroupNorm, x: Tensor, moments: Moments) -> Tensor:
    """SiLU(GroupNorm(x)) with these statistics."""
    mean, variance = moments
    grouped = x.float().reshape(x.shape[0], norm.num_groups, -1)
    normed = ((grouped - mean) / (variance + norm.eps).sqrt()).reshape(x.shape)
    shape = (1, -1, *[1] * (x.ndim - 2))
    return F.silu(normed * norm.weight.view(shape) + norm.bias.view(shape)).to(x.dtype)
