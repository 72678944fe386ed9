"""Limits, model and size -> where everything lives and what it takes, before a weight is read (arithmetic only).

The rules, in the order they are applied:
1. Nothing runs that does not fit: every stage's peak and the reserve lie under the limit, or the plan says `fits: no`.
2. The official decode geometry first, decoded whole, then in chunks of time (the same pixels); smaller tiles last, for
   their pixels differ slightly.
3. The token chunk and the number of resident blocks that give the fastest step. Of equally fast ones those with chunks
   that fill a card, then the fewest bytes to stream, then the largest chunk; without known rates the fewest bytes.
   Resident blocks are never copied; a larger chunk widens weights less often, where they are widened.
4. Blocks that do not fit on the device are kept in host memory as far as the RAM limit goes (a disk is slower), the
   rest is read from disk in every step.
"""

from __future__ import annotations

from dataclasses import replace

from .planning.blocks import choose_blocks
from .planning.decode import official_tile
from .planning.model import ModelSizes
from .planning.nearest import nearest_settings
from .planning.stages import choose_decode, plan_stages, text_by_layer
from .planning.time import step_seconds
from .planning.types import Machine, MemoryPlan, Work, fits_device, reserve_bytes


def plan_memory(model: ModelSizes, work: Work, machine: Machine, *, tier: str = "auto") -> MemoryPlan:
    """The fastest arrangement under both limits; where none fits, the smallest one, with the settings that do fit."""

    def arranged(work: Work, machine: Machine) -> MemoryPlan:
        return _arrange(model, work, machine, tier)

    plan = arranged(work, machine)
    return plan if plan.fits else replace(plan, nearest=nearest_settings(arranged, work, machine))


def _arrange(model: ModelSizes, work: Work, machine: Machine, tier: str) -> MemoryPlan:
    chosen = choose_blocks(model, work, machine, tier)
    decode = choose_decode(model, work, machine)
    stages = plan_stages(model, work, machine, chosen, decode)
    peak = max(stage.vram_bytes for stage in stages)
    return MemoryPlan(
        model=model.name,
        work=work,
        machine=machine,
        fits=fits_device(peak, machine) and all(stage.ram_bytes <= machine.ram_bytes for stage in stages),
        stages=stages,
        blocks=chosen.tiers,
        slots=chosen.slots,
        ring=chosen.host.ring,
        pinned_bytes=chosen.host.pinned_bytes,
        reserve_bytes=0 if machine.on_cpu else reserve_bytes(peak),
        tile=decode.tile,
        lean_decode=decode.lean,
        official_tile=decode.tile == official_tile(model.vae_config),
        text_by_layer=text_by_layer(model, machine),
        token_chunk=chosen.step.chunk,
        streamed_bytes_per_step=chosen.streaming.copied_bytes,
        seconds_per_step=step_seconds(model, chosen.step, chosen.streaming, machine.gpu),
    )
