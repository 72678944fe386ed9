"""The steps from a prompt to frames, in order: embed, denoise, decode. Each loads its weights and lets them go.

Source of the arithmetic: the official `hyvideo/diffusion/pipelines/pipeline_hunyuan_video.py`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .. import __version__
from ..errors import NonFiniteError
from ..quantize.source import locate
from .arrangement import Arrangement, DecodeArrangement, accepted, plan_decode, work_of
from .card import demo_root, load_card, named_model
from .config import GenerateConfig
from .device import cap_device_memory, choose_dtypes, memory_errors, probe_device
from .encoders.prompt_cache import PromptCache
from .events import Listener, Note, ignore
from .fingerprint import model_fingerprint
from .guidance import Conditioning
from .host_heap import return_freed_memory
from .models.vae_tiles import decode_chunks
from .output.encoding import VideoEncoding
from .parts import ModelParts
from .plan import plan_memory
from .planning.machine import MemoryLimits, machine_of
from .planning.model import ModelSizes, plan_model
from .planning.types import CONTEXT_BYTES, MemoryPlan
from .prompts import embed_prompts, open_prompt_cache
from .recovery.encoder import MORE_FOR_TEXT, RecoveringEncoder
from .recovery.recoveries import Recoveries
from .recovery.rungs import TileWay
from .recovery.steps import OnNonfinite, RecoveringSteps
from .recovery.tiles import RecoveringTiles
from .recovery.watchdog import frames_fault
from .sampling import initial_latents
from .streaming.tiers import choose_tier
from .tiling import tile_names
from .video import frames_to_uint8, write_video


@dataclass(frozen=True)
class Video:
    """frames: uint8 [F, H, W, 3] on the CPU; settings: what made them, as `hvlite inspect` prints it."""

    frames: Tensor
    settings: Mapping[str, Any]

    def save(self, path: Path | str, *, encoding: VideoEncoding | None = None, force: bool = False) -> Path:
        """Write an mp4 (or what `encoding` says) with the settings inside; replacing a file needs `force`."""
        path = Path(path).expanduser()
        write_video(
            path, [self.frames], fps=self.settings["fps"], settings=self.settings, encoding=encoding, force=force
        )
        return path

    def __repr__(self) -> str:
        frames, height, width, _ = self.frames.shape
        return f"<Video: {frames} frames of {height}x{width}, {self.settings.get('prompt')!r:.60}>"


class Pipeline:
    """A model and how to run it: under which limits, its blocks in which tier.

    ConfigError for a tier that this model cannot have.
    """

    def __init__(
        self,
        parts: ModelParts,
        limits: MemoryLimits | None = None,
        tier: str = "auto",
        *,
        on_nonfinite: OnNonfinite = "stop",
    ) -> None:
        choose_tier(tier, parts.files.root, streamable=parts.is_streamable)
        self.parts = parts
        self.on_nonfinite: OnNonfinite = on_nonfinite
        self.card = parts.card
        self.keep_prompts = True  # embeddings of prompts, on disk
        self.tier = tier
        machine = machine_of(parts.device, limits or MemoryLimits())
        self.machine = replace(machine, attention=parts.attention.kv_name, fused=parts.fused_schemes)
        self.fingerprint = model_fingerprint(parts.files, parts.model_config)

    def plan(self, config: GenerateConfig) -> MemoryPlan:
        """What a video takes and how it is laid out, whether it fits or not. No weight is read."""
        return plan_memory(self._sizes, work_of(config), self.machine, tier=self.tier)

    def arrange(self, config: GenerateConfig) -> Arrangement:
        """The plan's arrangement; MemoryLimitError, with what fits, where the video does not."""
        return accepted(self.plan(config), streamable=self.parts.is_streamable)

    @cached_property
    def prompt_cache(self) -> PromptCache | None:
        """Where embeddings are kept on disk; None where they are not."""
        return open_prompt_cache(self.parts) if self.keep_prompts else None

    @cached_property
    def _sizes(self) -> ModelSizes:
        return plan_model(self.parts.files, self.parts.model_config)

    def generate(self, config: GenerateConfig | str, **overrides: Any) -> Video:
        """A video from a config, or from a prompt and any of GenerateConfig's fields; the card gives the rest."""
        if isinstance(config, str):
            config = GenerateConfig.from_card(self.card, prompt=config, **overrides)
        elif overrides:
            config = GenerateConfig.from_json({**config.to_json(), **overrides})
        recoveries = Recoveries()
        frames = torch.cat(list(self.stream(config, recoveries=recoveries)))
        return Video(frames=frames, settings=recoveries.in_settings(self.settings(config)))

    def stream(self, config: GenerateConfig, *, recoveries: Recoveries | None = None) -> Iterator[Tensor]:
        """The frames of a video as they are made: uint8 chunks [f, H, W, 3]."""
        arrangement = self.arrange(config)
        conditioning = self.embed(config, arrangement, recoveries=recoveries)
        noise = initial_latents(config)
        *_, (_, latents) = self.denoise(config, conditioning, noise, arrangement, recoveries=recoveries)
        yield from self.decode(latents, arrangement, recoveries=recoveries)

    def embed(
        self, config: GenerateConfig, arrangement: Arrangement | None = None, *, recoveries: Recoveries | None = None
    ) -> Conditioning:
        """The prompt, and the negative prompt where there is one: kept embeddings, else through the text encoders.

        Here and below: `arrangement` is how it is laid out in memory, None makes a plan; `recoveries` takes what was
        done otherwise because memory or numbers failed. Encoders that run out of memory run layer by layer.
        """
        arrangement = arrangement or self.arrange(config)
        negative = config.effective_negative_prompt
        prompts = [config.prompt] if negative is None else [config.prompt, negative]
        with (
            memory_errors("encoding the prompt", hint=MORE_FOR_TEXT),
            RecoveringEncoder(self.parts, by_layer=arrangement.text_by_layer, recoveries=recoveries) as encode,
        ):
            return Conditioning(*embed_prompts(encode, self.prompt_cache, prompts, image=config.frames == 1))

    def denoise(
        self,
        config: GenerateConfig,
        conditioning: Conditioning,
        latents: Tensor,
        arrangement: Arrangement | None = None,
        *,
        start: int = 0,
        recoveries: Recoveries | None = None,
    ) -> Iterator[tuple[int, Tensor]]:
        """Noise to latents, from `start` steps done: yields (steps done, latents [1, 16, T, H, W] fp32)."""
        arrangement = arrangement or self.arrange(config)
        with (
            memory_errors("denoising"),
            torch.no_grad(),
            RecoveringSteps(
                self.parts,
                conditioning,
                config,
                arrangement=arrangement,
                on_nonfinite=self.on_nonfinite,
                recoveries=recoveries,
            ) as steps,
        ):
            yield from steps.run(latents, start)

    def arrange_decode(self, latents: Tensor, *, tiled: bool = True) -> DecodeArrangement:
        """How latents [1, 16, T, H, W] that a run left are decoded. Only the VAE of the model is looked at."""
        return plan_decode(self.parts.files, latents.shape, self.machine, tiled=tiled)

    def decode(
        self,
        latents: Tensor,
        arrangement: Arrangement | DecodeArrangement | None = None,
        *,
        one_colour: bool = False,
        recoveries: Recoveries | None = None,
    ) -> Iterator[Tensor]:
        """Latents as the transformer left them [1, 16, T, H, W] to frames: uint8 chunks [f, H, W, 3] on the CPU.

        One temporal tile is in memory at a time. A lean decode takes each tile in chunks of time: the same pixels up
        to rounding, less memory, more time. A tile that runs out of memory is redone in less. NonFiniteError, naming
        the tile, for pixels that are none, and for frames of a single colour unless `one_colour` lets them pass with a
        warning.
        """
        arrangement = arrangement or self.arrange_decode(latents)
        with memory_errors("decoding"), torch.no_grad(), self.parts.vae() as vae:
            latents = latents.to(vae.device, vae.dtype) / vae.config.scaling_factor
            tile = arrangement.tile
            # Tiles leave the device as they are made: a row of them at 720p is 180 MB, and they are blended by rows.
            decode_tile = RecoveringTiles(
                vae,
                tile_names(latents.shape[2:], tile),
                way=TileWay(lean=arrangement.lean_decode),
                on_nonfinite=self.on_nonfinite,
                on_event=self.parts.on_event,
                recoveries=recoveries,
            )
            for chunk in decode_chunks(decode_tile, latents, tile):
                frames = frames_to_uint8(chunk)
                self._check_frames(frames, one_colour)
                yield frames

    def _check_frames(self, frames: Tensor, one_colour: bool) -> None:
        fault = frames_fault(frames)
        if fault is None:
            return
        said = f"{frames.shape[0]} frames in a row are {fault}"
        if not one_colour:
            raise NonFiniteError(
                said, hint="the latents are kept; where the video is meant to be so, `hvlite decode` writes it"
            )
        self.parts.on_event(Note("warning", said))

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
            **({"linear": str(self.parts.arithmetic)} if self.parts.is_streamable else {}),
        }


def load(
    path: Path | str | None = None,
    *,
    device: str = "auto",
    precision: str | None = None,
    dit_weight: Path | str | None = None,
    config: Mapping[str, Any] | None = None,
    keep_loaded: bool = False,
    tier: str = "auto",
    linear: str = "auto",
    attention: str = "auto",
    vram_limit_bytes: int | None = None,
    ram_limit_bytes: int | None = None,
    on_nonfinite: OnNonfinite = "stop",
    prompt_cache: bool = True,
    on_event: Listener = ignore,
) -> Pipeline:
    """A pipeline for a model folder (official, diffusers, hvlite); None or "demo" is the one that ships with hvlite.

    `device`: auto, cpu or cuda. `precision` of the transformer on a GPU: bf16 (default), fp16, fp32; a CPU computes
    in fp32. `dit_weight`: another file for the transformer. `config`: official transformer field names, winning over
    a config.json. `keep_loaded` keeps the parts in memory between videos. `tier` says where the transformer's blocks
    are: resident on the device, or streamed from host or disk, which needs an hvlite folder; auto is what the plan of
    a video finds fastest under the limits. `linear` says how the quantized layers of such a folder are multiplied: see
    `lite.arithmetic.choose_arithmetic`. `attention`: auto, hvlite, sdpa, sage, or hvlite:VARIANT. `vram_limit_bytes`
    (None: all of the card) is a hard cap of this process, `ram_limit_bytes` (None: 16 GiB) one that plans keep.
    `on_nonfinite`: whether a step or tile that gives no numbers stops the run or is repeated in fp32. `prompt_cache`:
    embeddings of prompts are kept on disk, and looked up there, so that a repeated prompt loads no text encoder.
    `on_event` is told what the user should know. No weight is read yet. ConfigError, CheckpointError,
    UnsupportedDeviceError.
    """
    return_freed_memory()
    root = named_model(path) or demo_root()
    info = probe_device(device)
    parts = ModelParts(
        locate(root, dit_weight=None if dit_weight is None else Path(dit_weight)),
        load_card(root),
        info,
        choose_dtypes(info, precision),
        model_config=config,
        keep_loaded=keep_loaded,
        linear=linear,
        attention=attention,
        on_event=on_event,
    )
    limits = MemoryLimits(vram_limit_bytes, ram_limit_bytes)
    pipeline = Pipeline(parts, limits, tier, on_nonfinite=on_nonfinite)
    pipeline.keep_prompts = prompt_cache
    if vram_limit_bytes is not None:
        cap_device_memory(info, vram_limit_bytes - CONTEXT_BYTES)
    return pipeline
