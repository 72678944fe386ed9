"""The error for what does not fit, with what does."""

from __future__ import annotations

from collections.abc import Iterator

from ...errors import MemoryLimitError
from .limits import gib
from .types import Machine, MemoryPlan, Stage, Work, reserve_bytes


def refusal(plan: MemoryPlan) -> MemoryLimitError:
    """Says which cap is too low for which stage, and the nearest settings that fit."""
    if plan.nearest:
        hint = "what fits: " + ", or ".join(setting.option for setting in plan.nearest)
    else:
        hint = "convert the model with hvlite quantize: its blocks can then be streamed"
    on_card = max(plan.stages, key=lambda stage: stage.vram_bytes)
    on_host = max(plan.stages, key=lambda stage: stage.ram_bytes)
    return MemoryLimitError(_message(plan.work, on_card, on_host, plan.machine), hint=hint)


def decode_refusal(work: Work, stage: Stage, machine: Machine) -> MemoryLimitError:
    """The same for a decode alone."""
    return MemoryLimitError(
        _message(work, stage, stage, machine), hint="a higher --vram-limit or --ram-limit; without --no-vae-tiling"
    )


def _message(work: Work, on_card: Stage, on_host: Stage, machine: Machine) -> str:
    excesses = "; ".join(_excesses(on_card, on_host, machine))
    return f"{work.height}x{work.width}, {work.frames} frames do not fit: {excesses}"


def _excesses(on_card: Stage, on_host: Stage, machine: Machine) -> Iterator[str]:
    reserve = reserve_bytes(on_card.vram_bytes)
    if not machine.on_cpu and on_card.vram_bytes + reserve > machine.vram_bytes:
        need = f"{gib(on_card.vram_bytes)} and {gib(reserve)} in reserve"
        yield f"{on_card.name} needs {need} on the card, the limit is {gib(machine.vram_bytes)}"
    if on_host.ram_bytes > machine.ram_bytes:
        yield f"{on_host.name} needs {gib(on_host.ram_bytes)} of memory, the limit is {gib(machine.ram_bytes)}"
