"""Official sizes by cards of 8, 12, 16 and 24 GB: what `hvlite plan --table` prints and README.md shows."""

from __future__ import annotations

from typing import Any

from ..card import OFFICIAL_CARD, OFFICIAL_SIZES
from ..plan import plan_memory
from .gpus import find_gpu
from .machine import on_its_kernels
from .model import plan_model
from .types import GIB, Machine, MemoryPlan, Work
from .view import plan_json

TABLE_CARDS = ("RTX 4060", "RTX 3060", "RTX 4070", "RTX 4080", "RTX 3090")
TABLE_FRAMES = (129, 65, 33)
Row = tuple[str, list[MemoryPlan]]


def table_rows(preset: str) -> list[Row]:
    """The name of the size and its plan on each of TABLE_CARDS, for every official size and number of frames."""
    model, gpus = plan_model(preset), [find_gpu(name) for name in TABLE_CARDS]
    machines = [on_its_kernels(Machine(vram_bytes=gpu.memory_bytes, gpu=gpu)) for gpu in gpus]
    rows = []
    for name, by_aspect in OFFICIAL_SIZES.items():
        height, width = by_aspect["16:9"]
        for frames in TABLE_FRAMES:
            work = Work(height=height, width=width, frames=frames, steps=OFFICIAL_CARD.steps)
            rows.append((name, [plan_memory(model, work, machine) for machine in machines]))
    return rows


def table_json(rows: list[Row]) -> list[dict[str, Any]]:
    """Every plan with its card and the name of its size, for programs."""
    return [
        {"card": card, "size": name, **plan_json(plan)}
        for name, plans in rows
        for card, plan in zip(TABLE_CARDS, plans, strict=True)
    ]


def table_markdown(rows: list[Row]) -> str:
    """A cell has the peak on the card with the reserve, and where the blocks are."""
    gpus = [find_gpu(name) for name in TABLE_CARDS]
    lines = [
        "| size | frames | " + " | ".join(f"{gpu.name}, {gpu.memory_bytes // GIB} GB" for gpu in gpus) + " |",
        "|---|---|" + "---|" * len(gpus),
    ]
    for name, plans in rows:
        work = plans[0].work
        cells = " | ".join(map(_cell, plans))
        lines.append(f"| {name} {work.height}x{work.width} | {work.frames} | {cells} |")
    return "\n".join(lines)


def _cell(plan: MemoryPlan) -> str:
    if not plan.fits:
        return "no: " + (plan.nearest[0].option if plan.nearest else "too small a card")
    total = (plan.peak_vram_bytes + plan.reserve_bytes) / GIB
    return f"{total:.1f} GiB, {plan.blocks}"
