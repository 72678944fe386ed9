"""The three parts of a model, each loaded for a `with` and let go after it, so that no two are in memory at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import torch

from ..quantize.source import ModelFiles, open_transformer
from .arrangement import Arrangement
from .card import ModelCard
from .checkpoint import load_transformer, load_vae
from .device import DeviceInfo, Dtypes
from .events import Listener, ignore
from .models.linear import Arithmetic
from .models.vae import AutoencoderKLCausal3D
from .streaming.streamed_blocks import StreamOptions
from .streaming.streamed_transformer import open_streamed_transformer
from .streaming.tiers import TierCounts, choose_tier
from .streaming.transformer_blocks import LoadedTransformer, ResidentBlocks
from .text import TextEncoders, load_text_encoders

Part = TypeVar("Part")


@dataclass(frozen=True)
class Computation:
    """How a transformer computes: the dtype of its activations, and how it multiplies with quantized weights."""

    dtype: torch.dtype
    arithmetic: Arithmetic = "dequantize"

    def __str__(self) -> str:
        name = {torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16"}[self.dtype]
        return name if self.arithmetic == "dequantize" else f"{name}, {self.arithmetic}"


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
        tier: str = "auto",
        on_event: Listener = ignore,
    ) -> None:
        """`tier`: where the transformer's blocks are. ConfigError for one that this model cannot have."""
        self.files, self.card, self.device, self.dtypes = files, card, device, dtypes
        self.model_config = model_config
        self.tiers: TierCounts | None = None  # where the blocks really were, once the transformer was loaded
        self.tier = choose_tier(tier, files.root, streamable=self.is_streamable)
        self.on_event = on_event
        self._kept: dict[str, Any] = {}
        self._keep_loaded = keep_loaded

    @property
    def computation(self) -> Computation:
        """How the transformer computes."""
        return Computation(self.dtypes.transformer)

    @property
    def is_streamable(self) -> bool:
        """Whether the transformer's blocks are files of their own: it is that of an hvlite folder."""
        transformer = self.files.transformer
        return self.files.layout == "hvlite" and transformer is not None and transformer.path.parent == self.files.root

    def text(self) -> AbstractContextManager[TextEncoders]:
        """Both text encoders and their tokenizers."""
        return self._part(
            "text",
            lambda: load_text_encoders(self.files, self.card, device=self.device.device, dtype=self.dtypes.text),
        )

    def transformer(
        self, arrangement: Arrangement | None = None, *, precise: bool = False
    ) -> AbstractContextManager[LoadedTransformer]:
        """The transformer, its blocks in the tiers of `arrangement`. `precise`: in the higher precision, never kept."""
        if precise:
            return self._part("transformer", lambda: self._load_transformer(arrangement, PRECISE), keep=False)
        return self._part("transformer", lambda: self._load_transformer(arrangement, self.computation))

    def vae(self) -> AbstractContextManager[AutoencoderKLCausal3D]:
        """The VAE."""
        return self._part("vae", lambda: load_vae(self.files, self.device.device, self.dtypes.vae))

    def forget(self, name: str) -> None:
        """Let a part go that was kept for the next video."""
        part = self._kept.pop(name, None)
        if isinstance(part, LoadedTransformer):
            part.close()

    def default_tiers(self) -> TierCounts | None:
        """Every block in the tier that was chosen; None where this model cannot choose. Reads no weights."""
        if not self.is_streamable:
            return None
        with open_transformer(self.files, config=self.model_config) as source:
            blocks = source.config.mm_double_blocks_depth + source.config.mm_single_blocks_depth
        return TierCounts.all_in(self.tier, blocks)

    def _load_transformer(self, arrangement: Arrangement | None, computation: Computation) -> LoadedTransformer:
        device, dtype = self.device.device, computation.dtype
        if self.is_streamable:
            loaded = open_streamed_transformer(
                self.files,
                device,
                dtype,
                config=self.model_config,
                tier=self.tier,
                tiers=None if arrangement is None else arrangement.tiers,
                options=StreamOptions(arithmetic=computation.arithmetic),
                on_event=self.on_event,
            )
        else:
            model = load_transformer(self.files, device, dtype, self.model_config, computation.arithmetic)
            loaded = LoadedTransformer(model, ResidentBlocks(model))
        self.tiers = loaded.blocks.tiers
        return loaded

    @contextmanager
    def _part(self, name: str, load: Callable[[], Part], *, keep: bool = True) -> Iterator[Part]:
        keep = keep and self._keep_loaded
        part = (self._kept.get(name) if keep else None) or load()
        if keep:
            self._kept[name] = part
        try:
            yield part
        finally:
            if isinstance(part, LoadedTransformer) and not keep:
                part.close()
            del part
            if self.device.is_cuda:
                torch.cuda.empty_cache()
