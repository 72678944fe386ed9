"""The three parts of a model, each loaded for a `with` and let go after it, so that no two are in memory at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Any, TypeVar

import torch

from ..quantize.source import ModelFiles
from .card import ModelCard
from .checkpoint import load_transformer, load_vae
from .device import DeviceInfo, Dtypes
from .events import Listener, ignore
from .models.vae import AutoencoderKLCausal3D
from .streaming.streamed_blocks import PINNED_LIMIT_BYTES, StreamOptions
from .streaming.streamed_transformer import open_streamed_transformer
from .streaming.tiers import TierCounts
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
        on_event: Listener = ignore,
    ) -> None:
        self.files, self.card, self.device, self.dtypes = files, card, device, dtypes
        self.model_config = model_config
        self.tiers: TierCounts | None = None  # where the blocks really were, once the transformer was loaded
        self.on_event = on_event
        self._kept: dict[str, tuple[object, Any]] = {}
        self._keep_loaded = keep_loaded

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
        self, blocks: TierCounts | None = None, *, pinned_limit_bytes: int = PINNED_LIMIT_BYTES
    ) -> AbstractContextManager[LoadedTransformer]:
        """The transformer, its blocks in the tiers of `blocks`; None: all resident, the only way for one not cut up."""
        options = StreamOptions(pinned_limit_bytes=pinned_limit_bytes)
        return self._part("transformer", (blocks, options), lambda: self._load_transformer(blocks, options))

    def vae(self) -> AbstractContextManager[AutoencoderKLCausal3D]:
        """The VAE."""
        return self._part("vae", None, lambda: load_vae(self.files, self.device.device, self.dtypes.vae))

    def _load_transformer(self, blocks: TierCounts | None, options: StreamOptions) -> LoadedTransformer:
        device, dtype = self.device.device, self.dtypes.transformer
        if self.is_streamable:
            loaded = open_streamed_transformer(
                self.files,
                device,
                dtype,
                config=self.model_config,
                tiers=blocks,
                options=options,
                on_event=self.on_event,
            )
        else:
            model = load_transformer(self.files, device, dtype, self.model_config)
            loaded = LoadedTransformer(model, ResidentBlocks(model))
        self.tiers = loaded.blocks.tiers
        return loaded

    @contextmanager
    def _part(self, name: str, layout: object, load: Callable[[], Part]) -> Iterator[Part]:
        """A part laid out as `layout` says; a kept one that is laid out otherwise goes first."""
        if name in self._kept and self._kept[name][0] != layout:
            self._let_go(self._kept.pop(name)[1])
        part = self._kept[name][1] if name in self._kept else load()
        if self._keep_loaded:
            self._kept[name] = layout, part
        try:
            yield part
        finally:
            if not self._keep_loaded:
                self._let_go(part)
            del part
            self._empty_cache()

    def _let_go(self, part: object) -> None:
        if isinstance(part, LoadedTransformer):
            part.close()

    def _empty_cache(self) -> None:
        if self.device.is_cuda:
            torch.cuda.empty_cache()
