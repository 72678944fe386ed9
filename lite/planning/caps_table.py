"""One video under falling caps, as Markdown: what `hvlite plan --caps` prints and docs/memory.md shows."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ..plan import plan_memory
from .model import ModelSizes
from .types import GIB, Machine, MemoryPlan, Work
from .view import plan_json

CAPS_GIB = (24, 16, 12, 8, 6)
HEAD = """\
| cap | counted | reserve | blocks | streamed a step | tokens a chunk | decode of a tile | host | page-locked |
|---:|---:|---:|---|---:|---:|---|---:|---:|"""


def caps_plans(model: ModelSizes, work: Work, machine: Machine) -> list[MemoryPlan]:
    """The plan of `work` under each cap, its other limits those of `machine`."""
    return [plan_memory(model, work, replace(machine, vram_bytes=cap * GIB)) for cap in CAPS_GIB]


def caps_json(plans: list[MemoryPlan]) -> list[dict[str, Any]]:
    """Every plan with its card, where one was named, and its cap, for programs."""
    return [
        {
            "card": None if plan.machine.gpu is None else plan.machine.gpu.name,
            "cap_bytes": plan.machine.vram_bytes,
            **plan_json(plan),
        }
        for plan in plans
    ]


def caps_markdown(plans: list[MemoryPlan]) -> str:
    """A row for each plan. Sizes in GiB."""
    return "\n".join([HEAD, *map(_row, plans)])


def _row(plan: MemoryPlan) -> str:
    cap = plan.machine.vram_bytes // GIB
    if not plan.fits:
        return f"| {cap} | no: {plan.nearest[0].option if plan.nearest else 'too small'} |" + " |" * 7
    tile = f"{plan.tile.frames + 1}x{plan.tile.height}x{plan.tile.width}"
    cells = (
        cap,
        _gib(plan.peak_vram_bytes),
        _gib(plan.reserve_bytes),
        plan.blocks,
        _gib(plan.streamed_bytes_per_step),
        plan.token_chunk,
        f"{tile}, {'in chunks of time' if plan.lean_decode else 'whole'}",
        _gib(plan.peak_ram_bytes),
        _gib(plan.pinned_bytes),
    )
    return "| " + " | ".join(map(str, cells)) + " |"


def _gib(nbytes: int) -> str:
    return f"{nbytes / GIB:.2f}"
