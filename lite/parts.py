"""The three parts of a model, each loaded for a `with` and let go after it, so that no two are in memory at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import torch

from ..quantize.source import ModelFiles
from .arithmetic import DEQUANTIZE, LinearArithmetic, choose_arithmetic, kernel_capability
from .arrangement import Arrangement
from .attention import EXACT, Attention, choose_attention
from .card import ModelCard
from .checkpoint import load_transformer, load_vae
from .device import DeviceInfo, Dtypes
from .events import Listener, Note, ignore
from .host_heap import trim_heap
from .models.vae import AutoencoderKLCausal3D
from .streaming.streamed_blocks import StreamOptions
from .streaming.streamed_transformer import open_streamed_transformer
from .streaming.tiers import TierCounts
from .streaming.transformer_blocks import LoadedTransformer, ResidentBlocks
from .text import TextEncoders, load_text_encoders

Part = TypeVar("Part")


@dataclass(frozen=True)
class Computation:
    """How a transformer computes: the dtype of its activations, and how it multiplies with quantized weights."""

    dtype: torch.dtype
    arithmetic: LinearArithmetic = DEQUANTIZE

    def __str__(self) -> str:
        name = {torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16"}[self.dtype]
        return name if self.arithmetic == DEQUANTIZE else f"{name}, {self.arithmetic}"


PRECISE = Computation(torch.float32)


class ModelParts:
    """Loads the parts of `files` on `device`. With `keep_loaded` a part stays for the next video (small models)."""

    def __init__(
        self,
        files: ModelFiles,
        card: ModelCard,
        device: DeviceInfo,
        dtypes: Dtypes,
        *,
        model_config: Mapping[str, Any] | None = None,
        keep_loaded: bool = False,
        linear: str = "auto",
        attention: str = "auto",
        on_event: Listener = ignore,
    ) -> None:
        """`linear`: how quantized layers multiply (`choose_arithmetic`); `attention`: see `choose_attention`.

        UnsupportedDeviceError for what this device cannot have.
        """
        self.files, self.card, self.device, self.dtypes = files, card, device, dtypes
        self.model_config = model_config
        self.tiers: TierCounts | None = None  # where the blocks really were, once the transformer was loaded
        self._linear = linear
        self.arithmetic = choose_arithmetic(linear, kernel_capability(device.device))
        self.attention = choose_attention(attention, device, dtypes.transformer)
        self.on_event = on_event
        self._kept: dict[str, tuple[object, Any]] = {}
        self._keep_loaded = keep_loaded

    @property
    def computation(self) -> Computation:
        """How the transformer computes."""
        return Computation(self.dtypes.transformer, self.arithmetic)

    @property
    def fused_schemes(self) -> tuple[str, ...]:
        """Schemes whose layers are multiplied as 8-bit codes by our kernels: what the plan counts without widening."""
        if kernel_capability(self.device.device) is None:
            return ()
        ways = {"int8": self.arithmetic.int8, "fp8": self.arithmetic.fp8}
        return tuple(name for name, way in ways.items() if way == "w8a8")

    @property
    def is_streamable(self) -> bool:
        """Whether the transformer's blocks are files of their own: it is that of an hvlite folder."""
        transformer = self.files.transformer
        return self.files.layout == "hvlite" and transformer is not None and transformer.path.parent == self.files.root

    def text(self, *, by_layer: bool = False) -> AbstractContextManager[TextEncoders]:
        """Both text encoders and their tokenizers; `by_layer` as in `load_text_encoders`."""
        return self._part(
            "text",
            by_layer,
            lambda: load_text_encoders(
                self.files, self.card, device=self.device.device, dtype=self.dtypes.text, by_layer=by_layer
            ),
        )

    def transformer(
        self, arrangement: Arrangement | None = None, *, precise: bool = False
    ) -> AbstractContextManager[LoadedTransformer]:
        """The transformer, its blocks in the tiers of `arrangement`. `precise`: in the higher precision, never kept."""
        laid_out = arrangement or Arrangement()
        computation = PRECISE if precise else self.computation
        layout = (laid_out.tiers, laid_out.pinned_limit_bytes, computation)
        return self._part(
            "transformer", layout, lambda: self._load_transformer(laid_out, computation), keep=not precise
        )

    def attention_for(self, transformer: LoadedTransformer, *, precise: bool = False) -> Attention:
        """The one chosen, or what takes its place for this transformer's heads, with a line that says so.

        `precise`: PyTorch's, exact.
        """
        if precise:
            return EXACT
        chosen = self.attention
        self.attention = chosen.for_heads(transformer.config.head_dim, transformer.device)
        if self.attention is not chosen:
            self.on_event(Note("info", f"attention: {self.attention}: {self.attention.why}"))
        return self.attention

    def vae(self) -> AbstractContextManager[AutoencoderKLCausal3D]:
        """The VAE."""
        return self._part("vae", None, lambda: load_vae(self.files, self.device.device, self.dtypes.vae))

    def forget(self, name: str) -> None:
        """Let a part go that was kept for the next video."""
        if name in self._kept:
            self._let_go(self._kept.pop(name)[1])

    def _load_transformer(self, arrangement: Arrangement, computation: Computation) -> LoadedTransformer:
        device, dtype = self.device.device, computation.dtype
        if self.is_streamable:
            loaded = open_streamed_transformer(
                self.files,
                device,
                dtype,
                config=self.model_config,
                tiers=arrangement.tiers,
                options=StreamOptions(
                    pinned_limit_bytes=arrangement.pinned_limit_bytes, arithmetic=computation.arithmetic
                ),
                on_event=self.on_event,
            )
        else:
            linear = "dequantize" if computation == PRECISE else self._linear
            model = load_transformer(self.files, device, dtype, self.model_config, linear)
            loaded = LoadedTransformer(model, ResidentBlocks(model))
        self.tiers = loaded.blocks.tiers
        return loaded

    @contextmanager
    def _part(self, name: str, layout: object, load: Callable[[], Part], *, keep: bool = True) -> Iterator[Part]:
        """A part laid out as `layout` says; a kept one that is laid out otherwise goes first."""
        keep = keep and self._keep_loaded
        if name in self._kept and self._kept[name][0] != layout:
            self.forget(name)
        trim_heap()  # not when a part ends: whoever used it may still hold it
        part = self._kept[name][1] if name in self._kept else load()
        if keep:
            self._kept[name] = layout, part
        try:
            yield part
        finally:
            if not keep:
                self._let_go(part)
            del part
            self._empty_cache()

    def _let_go(self, part: object) -> None:
        if isinstance(part, LoadedTransformer):
            part.close()

    def _empty_cache(self) -> None:
        if self.device.is_cuda:
            torch.cuda.empty_cache()
