"""The steps from a prompt to frames, in order: embed, denoise, decode. Each loads its weights and lets them go.

Source of the arithmetic: the official `hyvideo/diffusion/pipelines/pipeline_hunyuan_video.py`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .. import __version__
from ..quantize.source import locate
from .attention import EXACT, Attention, choose_attention
from .card import demo_root, load_card
from .config import GenerateConfig
from .device import choose_dtypes, memory_errors, probe_device
from .events import Listener, Note, ignore
from .fingerprint import model_fingerprint
from .models.chunked import DEFAULT_TOKEN_CHUNK
from .models.vae_lean import decode_lean
from .models.vae_tiles import decode_chunks
from .output.encoding import VideoEncoding
from .parts import ModelParts
from .sampling import Predict, Schedule, denoise, flow_schedule, guidance_input, initial_latents
from .streaming.transformer_blocks import LoadedTransformer
from .text import PromptEmbeds
from .tiling import TileSpec
from .velocity import Velocity
from .video import frames_to_uint8, write_video


@dataclass(frozen=True)
class Video:
    """frames: uint8 [F, H, W, 3] on the CPU; settings: what made them, as `hvlite inspect` prints it."""

    frames: Tensor
    settings: Mapping[str, Any]

    def save(self, path: Path | str, *, encoding: VideoEncoding | None = None, force: bool = False) -> Path:
        """Write an mp4 (or what `encoding` says) with the settings inside; replacing a file needs `force`."""
        write_video(
            path, [self.frames], fps=self.settings["fps"], settings=self.settings, encoding=encoding, force=force
        )
        return Path(path)


@dataclass(frozen=True)
class Conditioning:
    """What the prompt says to the transformer. `negative` is None where classifier-free guidance is off."""

    positive: PromptEmbeds
    negative: PromptEmbeds | None = None


class Pipeline:
    """A model and how to run it."""

    def __init__(self, parts: ModelParts) -> None:
        self.parts = parts
        self.card = parts.card
        self.fingerprint = model_fingerprint(parts.files, parts.model_config)

    def generate(self, config: GenerateConfig | str, **overrides: Any) -> Video:
        """A video from a config, or from a prompt and any of GenerateConfig's fields; the card gives the rest."""
        if isinstance(config, str):
            config = GenerateConfig.from_card(self.card, prompt=config, **overrides)
        elif overrides:
            config = GenerateConfig.from_json({**config.to_json(), **overrides})
        return Video(frames=torch.cat(list(self.stream(config))), settings=self.settings(config))

    def stream(self, config: GenerateConfig) -> Iterator[Tensor]:
        """The frames of a video as they are made: uint8 chunks [f, H, W, 3]."""
        conditioning = self.embed(config)
        *_, (_, latents) = self.denoise(config, conditioning, initial_latents(config))
        yield from self.decode(latents, tiled=config.vae_tiling)

    def embed(self, config: GenerateConfig) -> Conditioning:
        """The prompt, and the negative prompt where there is one, through the text encoders."""
        image, negative = config.frames == 1, config.effective_negative_prompt
        with memory_errors("encoding the prompt"), self.parts.text() as text:
            return Conditioning(
                positive=text.encode(config.prompt, image=image),
                negative=None if negative is None else text.encode(negative, image=image),
            )

    def denoise(
        self, config: GenerateConfig, conditioning: Conditioning, latents: Tensor, *, start: int = 0
    ) -> Iterator[tuple[int, Tensor]]:
        """Noise to latents, from `start` steps done: yields (steps done, latents [1, 16, T, H, W] fp32)."""
        with memory_errors("denoising"), torch.no_grad(), self.parts.transformer() as transformer:
            predict = guided(transformer, conditioning, config, self._attention(transformer))
            yield from denoise(predict, latents.to(transformer.device), schedule_of(config), start=start)

    def _attention(self, transformer: LoadedTransformer) -> Attention:
        """The one chosen, or what takes its place for this transformer's heads, with a line that says so."""
        chosen = self.parts.attention
        self.parts.attention = chosen.for_heads(transformer.config.head_dim, transformer.device)
        if self.parts.attention is not chosen:
            self.parts.on_event(Note("info", f"attention: {self.parts.attention}: {self.parts.attention.why}"))
        return self.parts.attention

    def decode(self, latents: Tensor, *, tiled: bool = True, lean: bool = False) -> Iterator[Tensor]:
        """Latents as the transformer left them [1, 16, T, H, W] to frames: uint8 chunks [f, H, W, 3] on the CPU.

        `tiled` is the official geometry, one temporal tile in memory at a time; else the whole video at once. `lean`
        decodes each tile in chunks of time: the same pixels up to rounding, less memory, more time.
        """
        with memory_errors("decoding"), torch.no_grad(), self.parts.vae() as vae:
            latents = latents.to(vae.device, vae.dtype) / vae.config.scaling_factor
            decode_tile = partial(decode_lean, vae) if lean else vae.decode_tile
            # Tiles leave the device as they are made: a row of them at 720p is 180 MB, and they are blended by rows.
            chunks = decode_chunks(
                lambda part: decode_tile(part).cpu(),
                latents,
                vae.official_tile if tiled else whole_tile(latents),
            )
            for chunk in chunks:
                yield frames_to_uint8(chunk)

    def settings(self, config: GenerateConfig) -> dict[str, Any]:
        """Everything that made a video, as plain JSON: the config, the model and the arithmetic."""
        return {
            **config.to_json(),
            "version": __version__,
            "model": self.card.name,
            "model_fingerprint": self.fingerprint,
            "precision": str(self.parts.dtypes.transformer).removeprefix("torch."),
            "attention": str(self.parts.attention),
            "device": self.parts.device.device.type,
        }


def guided(
    transformer: LoadedTransformer,
    conditioning: Conditioning,
    config: GenerateConfig,
    attention: Attention = EXACT,
) -> Predict:
    """The model's prediction as a function of latents and step, with classifier-free guidance where it is on."""
    timesteps = schedule_of(config).timesteps
    guidance = guidance_input(config.guidance_scale, transformer.dtype) if transformer.config.guidance_embed else None

    def velocity(embeds: PromptEmbeds) -> Velocity:
        return Velocity(
            transformer, embeds, timesteps, guidance, token_chunk=DEFAULT_TOKEN_CHUNK, attention=attention
        )

    positive = velocity(conditioning.positive)
    if conditioning.negative is None:
        return positive
    negative = velocity(conditioning.negative)

    def predict(latents: Tensor, step: int) -> Tensor:
        away = negative(latents, step)
        return away + config.cfg_scale * (positive(latents, step) - away)

    return predict


def whole_tile(latents: Tensor) -> TileSpec:
    """One tile of the size of the latents."""
    frames, height, width = latents.shape[2:]
    return TileSpec(frames=frames, height=height, width=width, overlap=0.0)


def schedule_of(config: GenerateConfig) -> Schedule:
    """The sigmas and timesteps of a config."""
    return flow_schedule(config.steps, config.flow_shift, reverse=config.flow_reverse)


def load(
    path: Path | str | None = None,
    *,
    device: str = "auto",
    precision: str | None = None,
    dit_weight: Path | str | None = None,
    config: Mapping[str, Any] | None = None,
    keep_loaded: bool = False,
    tier: str = "auto",
    attention: str = "auto",
    on_event: Listener = ignore,
) -> Pipeline:
    """A pipeline for a model folder (official, diffusers, hvlite); None is the model that ships with hvlite.

    `device`: auto, cpu or cuda. `precision` of the transformer on a GPU: bf16 (default), fp16, fp32; a CPU computes
    in fp32. `dit_weight`: another file for the transformer. `config`: official transformer field names, winning over
    a config.json. `keep_loaded` keeps the parts in memory between videos. `tier` says where the transformer's blocks
    are: resident on the device, or streamed from host or disk, which needs an hvlite folder. `attention`: auto, hvlite,
    sdpa, sage, or hvlite:VARIANT. `on_event` is told what the user should know. No weight is read yet.
    """
    root = demo_root() if path is None else Path(path)
    info = probe_device(device)
    dtypes = choose_dtypes(info, precision)
    parts = ModelParts(
        locate(root, dit_weight=None if dit_weight is None else Path(dit_weight)),
        load_card(root),
        info,
        dtypes,
        model_config=config,
        keep_loaded=keep_loaded,
        tier=tier,
        attention=choose_attention(attention, info, dtypes.transformer),
        on_event=on_event,
    )
    return Pipeline(parts)
