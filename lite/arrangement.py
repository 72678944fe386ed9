"""How a run is laid out in memory: what a plan decides and a run follows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import prod

from ..quantize.source import ModelFiles, open_vae
from .config import GenerateConfig
from .models.chunked import DEFAULT_TOKEN_CHUNK
from .planning.decode import VaeSizes
from .planning.refusal import decode_refusal, refusal
from .planning.stages import choose_decode, decode_stage
from .planning.types import PINNED_LIMIT_BYTES, Machine, MemoryPlan, Work, fits_device
from .streaming.tiers import TierCounts
from .tiling import SPACE_RATIO, TIME_RATIO, TileSpec


@dataclass(frozen=True, kw_only=True)
class Arrangement:
    """What may change between two steps or two tiles without changing what is asked for.

    `tiers`: where the transformer's blocks are; None for a model whose blocks cannot be streamed. `token_chunk`: tokens
    that go through a block's layers at a time.
    `tile`: of the decode, in latent units; `lean_decode` decodes each in chunks of time. `text_by_layer`: one layer of
    the language model on the device at a time. `pinned_limit_bytes`: of host memory that may be page-locked.
    """

    tiers: TierCounts | None = None
    token_chunk: int = DEFAULT_TOKEN_CHUNK
    tile: TileSpec = field(default_factory=TileSpec)
    lean_decode: bool = False
    text_by_layer: bool = False
    pinned_limit_bytes: int = PINNED_LIMIT_BYTES


@dataclass(frozen=True)
class DecodeArrangement:
    """That of a decode alone."""

    tile: TileSpec
    lean_decode: bool


def work_of(config: GenerateConfig) -> Work:
    """What a config asks for, as a plan sees it."""
    return Work(
        height=config.height,
        width=config.width,
        frames=config.frames,
        steps=config.steps,
        guided=config.effective_negative_prompt is not None,
        tiled=config.vae_tiling,
    )


def accepted(plan: MemoryPlan, *, streamable: bool) -> Arrangement:
    """The arrangement of a plan that fits; MemoryLimitError for one that does not."""
    if not plan.fits:
        raise refusal(plan)
    return Arrangement(
        tiers=plan.blocks if streamable else None,
        token_chunk=plan.token_chunk,
        tile=plan.tile,
        lean_decode=plan.lean_decode,
        text_by_layer=plan.text_by_layer,
        pinned_limit_bytes=plan.machine.pinned_bytes,
    )


def plan_decode(files: ModelFiles, shape: Sequence[int], machine: Machine, *, tiled: bool) -> DecodeArrangement:
    """The first tile that fits for latents of `shape` [1, 16, T, H, W]; MemoryLimitError where none does."""
    with open_vae(files) as source:
        elements = sum(prod(source.info(name).shape) for name in source.names())
        vae = VaeSizes(vae_config=source.config, vae_elements=elements)
    frames, height, width = TIME_RATIO * (shape[2] - 1) + 1, SPACE_RATIO * shape[3], SPACE_RATIO * shape[4]
    work = Work(height=height, width=width, frames=frames, steps=0, tiled=tiled)
    chosen = choose_decode(vae, work, machine)
    stage = decode_stage(vae, machine, chosen)
    if not fits_device(stage.vram_bytes, machine) or stage.ram_bytes > machine.ram_bytes:
        raise decode_refusal(work, stage, machine)
    return DecodeArrangement(chosen.tile, chosen.lean)
