"""The tiles of one decode, each looked at, and redone where it fails: in less memory, or at a higher precision."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor

from ...errors import MemoryLimitError, NonFiniteError
from ..events import Listener, Note
from ..models.vae import AutoencoderKLCausal3D
from ..models.vae_lean import decode_lean
from ..models.vae_tiles import TIME, decode_chunks
from .memory import free_memory, out_of_memory
from .recoveries import Recoveries
from .rungs import MOST_RUNGS, SAME_AGAIN, TileWay, next_way
from .steps import OnNonfinite
from .watchdog import fault_of

KEPT = "the latents are kept, for `hvlite decode`"


class RecoveringTiles:
    """Call it with the latents of each tile in turn: its pixels, on the CPU. A way that worked is kept for the rest."""

    def __init__(
        self,
        vae: AutoencoderKLCausal3D,
        names: Iterator[str],
        *,
        way: TileWay,
        on_nonfinite: OnNonfinite,
        on_event: Listener,
        recoveries: Recoveries | None = None,
    ) -> None:
        """`names` of the tiles, in the order they come; `recoveries` takes what is done otherwise than `way` says."""
        self.way = way
        self._vae, self._names = vae, names
        self._dtype = vae.dtype
        self._on_nonfinite, self._on_event = on_nonfinite, on_event
        self._recoveries = Recoveries() if recoveries is None else recoveries
        self._rungs = 0
        self._freed = False

    def __call__(self, latents: Tensor) -> Tensor:
        """latents [B, 16, T, H, W] -> [B, 3, 4(T-1)+1, 8H, 8W]. Raises NonFiniteError, MemoryLimitError."""
        name = next(self._names)
        pixels = self._in_memory(latents, name, self._dtype)
        fault = fault_of(pixels)
        if fault is None:
            return pixels
        found = f"decoding {name}: the VAE's output {fault} ({str(self._dtype).removeprefix('torch.')})"
        if self._dtype is torch.float32:
            raise NonFiniteError(found, hint=f"{KEPT}; nothing is higher than float32: hvlite verify finds damage")
        if self._on_nonfinite == "stop":
            raise NonFiniteError(found, hint=f"{KEPT} with --on-nonfinite retry, which repeats such a tile in float32")
        self._on_event(Note("warning", f"{found}: repeating the tile in float32"))
        self._recoveries.add(f"decode {name}", "repeated in float32")
        pixels = self._in_memory(latents, name, torch.float32)
        fault = fault_of(pixels)
        if fault is not None:
            raise NonFiniteError(f"{found}; repeated in float32 it {fault}", hint=f"{KEPT}; hvlite verify finds damage")
        return pixels

    def _in_memory(self, latents: Tensor, name: str, dtype: torch.dtype) -> Tensor:
        """The tile, down the ladder as far as it takes."""
        while True:
            result = self._attempt(latents, dtype)
            if isinstance(result, Tensor):
                return result
            # Here the error and its traceback, which hold every map of the tile, are gone.
            free_memory(self._vae.device)
            self._step_down(result, name, latents.shape[2:])

    def _attempt(self, latents: Tensor, dtype: torch.dtype) -> Tensor | str:
        """The pixels, or in words how memory ran out. The VAE computes in `dtype` for the time of the tile."""
        decode = partial(decode_lean, self._vae) if self.way.lean else self._vae.decode_tile
        try:
            self._vae.to(dtype)  # from fp16 to fp32 and back no bit changes
            latents = latents.to(dtype)
            if self.way.parts is None:
                return decode(latents).cpu()
            return torch.cat(list(decode_chunks(lambda part: decode(part).cpu(), latents, self.way.parts)), dim=TIME)
        except Exception as error:
            failure = out_of_memory(error)
            if failure is None:
                raise
            return failure
        finally:
            self._vae.to(self._dtype)

    def _step_down(self, failure: str, name: str, tile: torch.Size) -> None:
        said = f"out of memory decoding {name} ({failure})"
        rung = next_way(self.way, tile)
        if self._rungs == MOST_RUNGS or (rung is None and self._freed):
            raise MemoryLimitError(
                f"{said}, after {self._rungs} steps down",
                hint=f"{KEPT}: on another machine, with --device cpu, or when other programs need less",
            )
        self._rungs += 1
        self._freed = rung is None
        self.way = rung.way if rung else self.way
        change = rung.change if rung else "with all memory given back"
        self._on_event(Note("warning", f"{said}: redoing it {change}"))
        self._recoveries.add(f"decode {name}", rung.record if rung else SAME_AGAIN)
