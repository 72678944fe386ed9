"""The three parts of a model, each loaded for a `with` and let go after it, so that no two are in memory at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Any, TypeVar

import torch

from ..quantize.source import ModelFiles
from .attention import EXACT, Attention
from .card import ModelCard
from .checkpoint import load_transformer, load_vae
from .device import DeviceInfo, Dtypes
from .events import Listener, ignore
from .models.vae import AutoencoderKLCausal3D
from .streaming.streamed_transformer import open_streamed_transformer
from .streaming.tiers import TierCounts, choose_tier
from .streaming.transformer_blocks import LoadedTransformer, ResidentBlocks
from .text import TextEncoders, load_text_encoders

Part = TypeVar("Part")


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
        attention: Attention = EXACT,
        on_event: Listener = ignore,
    ) -> None:
        """`tier`: where the transformer's blocks are. ConfigError for one that this model cannot have."""
        self.files, self.card, self.device, self.dtypes = files, card, device, dtypes
        self.model_config = model_config
        self.tiers: TierCounts | None = None  # where the blocks really were, once the transformer was loaded
        self.tier = choose_tier(tier, files.root, streamable=self.is_streamable)
        self.attention = attention
        self.on_event = on_event
        self._kept: dict[str, Any] = {}
        self._keep_loaded = keep_loaded

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

    def transformer(self) -> AbstractContextManager[LoadedTransformer]:
        """The transformer, its blocks in their tiers."""
        return self._part("transformer", self._load_transformer)

    def vae(self) -> AbstractContextManager[AutoencoderKLCausal3D]:
        """The VAE."""
        return self._part("vae", lambda: load_vae(self.files, self.device.device, self.dtypes.vae))

    def _load_transformer(self) -> LoadedTransformer:
        device, dtype = self.device.device, self.dtypes.transformer
        if self.is_streamable:
            loaded = open_streamed_transformer(
                self.files, device, dtype, config=self.model_config, tier=self.tier, on_event=self.on_event
            )
        else:
            model = load_transformer(self.files, device, dtype, self.model_config)
            loaded = LoadedTransformer(model, ResidentBlocks(model))
        self.tiers = loaded.blocks.tiers
        return loaded

    @contextmanager
    def _part(self, name: str, load: Callable[[], Part]) -> Iterator[Part]:
        part = self._kept.get(name) or load()
        if self._keep_loaded:
            self._kept[name] = part
        try:
            yield part
        finally:
            if isinstance(part, LoadedTransformer) and not self._keep_loaded:
                part.close()
            del part
            if self.device.is_cuda:
                torch.cuda.empty_cache()
