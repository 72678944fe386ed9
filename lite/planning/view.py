"""A plan as JSON, as text, as one line."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from .limits import gib
from .types import MemoryPlan

_PLACES = {"resident": "resident", "host": "in host memory", "disk": "on disk"}


def plan_json(plan: MemoryPlan) -> dict[str, Any]:
    """The plan for programs. Bytes are bytes, seconds are estimates, null is what is not known."""
    work, machine = plan.work, plan.machine
    values: dict[str, Any] = {
        "fits": plan.fits,
        "peak_vram_bytes": plan.peak_vram_bytes,
        "peak_ram_bytes": plan.peak_ram_bytes,
        "pinned_bytes": plan.pinned_bytes,
        "reserve_bytes": plan.reserve_bytes,
        "stages": [
            {
                "name": stage.name,
                "vram_bytes": stage.vram_bytes,
                "ram_bytes": stage.ram_bytes,
                "streamed_bytes": stage.streamed_bytes,
                "seconds": stage.seconds,
                "peak_at": stage.at,
            }
            for stage in plan.stages
        ],
        "blocks": {"resident": plan.blocks.resident, "host": plan.blocks.host, "disk": plan.blocks.disk},
        "slots": plan.slots,
        "ring": plan.ring,
        "tile": {
            "height": plan.tile.height,
            "width": plan.tile.width,
            "frames": plan.tile.frames,
            "overlap": plan.tile.overlap,
            "in_chunks_of_time": plan.lean_decode,
            "official_geometry": plan.official_tile,
        },
        "text_by_layer": plan.text_by_layer,
        "token_chunk": plan.token_chunk,
        "streamed_bytes_per_step": plan.streamed_bytes_per_step,
        "seconds_per_step": plan.seconds_per_step,
        "seconds": plan.seconds,
        "model": plan.model,
        "height": work.height,
        "width": work.width,
        "frames": work.frames,
        "steps": work.steps,
        "gpu": None if machine.gpu is None else machine.gpu.name,
        "vram_limit_bytes": machine.vram_bytes,
        "ram_limit_bytes": machine.ram_bytes,
    }
    if not plan.fits:
        values["nearest"] = [
            {
                "options": setting.option,
                "height": setting.height,
                "width": setting.width,
                "frames": setting.frames,
                "peak_vram_bytes": setting.vram_bytes,
                "peak_ram_bytes": setting.ram_bytes,
            }
            for setting in plan.nearest
        ]
    return values


def plan_line(plan: MemoryPlan) -> str:
    """The plan in one line, as a run prints it."""
    memory = f"{gib(plan.peak_ram_bytes)} of memory"
    if not plan.machine.on_cpu:
        memory = f"{gib(plan.peak_vram_bytes)} + {gib(plan.reserve_bytes)} reserve on the card, {memory}"
    return f"plan: {memory}; blocks {plan.blocks}; {plan.token_chunk} tokens a chunk; {tile_text(plan)}"


def plan_text(plan: MemoryPlan) -> str:
    """The plan for people."""
    return "\n".join(_lines(plan))


def _lines(plan: MemoryPlan) -> Iterator[str]:
    work, machine = plan.work, plan.machine
    where = "the CPU" if machine.on_cpu else (machine.gpu.name if machine.gpu else "a graphics card")
    yield f"{plan.model}: {work.height}x{work.width}, {work.frames} frames, {work.steps} steps on {where}"
    yield ("fits" if plan.fits else "does not fit") + ": " + _against_limits(plan)
    yield f"blocks: {_blocks_text(plan)}" + _streamed_text(plan)
    yield f"tokens a chunk: {plan.token_chunk}; decode: {tile_text(plan)}"
    if plan.text_by_layer:
        yield "text: the language model goes through the card layer by layer"
    yield ""
    yield f"{'stage':<12}{'card':>12}{'memory':>12}{'streamed':>12}{'time':>12}  most of it at"
    for stage in plan.stages:
        time = _duration(stage.seconds)
        sizes = (gib(stage.vram_bytes), gib(stage.ram_bytes), gib(stage.streamed_bytes))
        yield f"{stage.name:<12}" + "".join(f"{size:>12}" for size in sizes) + f"{time:>12}  {stage.at}"
    yield _time_text(plan)
    if not plan.fits:
        yield "what fits:"
        yield from (f"  {setting.option}  ({gib(setting.vram_bytes)} on the card)" for setting in plan.nearest)


def _against_limits(plan: MemoryPlan) -> str:
    machine = plan.machine
    parts = [f"{gib(plan.peak_ram_bytes)} of memory, {gib(machine.ram_bytes)} allowed"]
    if not machine.on_cpu:
        reserve = f"{gib(plan.reserve_bytes)} in reserve for its context and workspaces"
        parts.insert(0, f"{gib(plan.peak_vram_bytes)} on the card, {reserve}, {gib(machine.vram_bytes)} allowed")
        parts.append(f"{gib(plan.pinned_bytes)} of it page-locked")
    return "; ".join(parts)


def _blocks_text(plan: MemoryPlan) -> str:
    blocks = plan.blocks
    place = _PLACES.get(str(blocks))
    return f"{blocks} of {blocks.total}" if place is None else f"all {blocks.total} {place}"


def _time_text(plan: MemoryPlan) -> str:
    if plan.seconds_per_step is not None:
        return f"times are estimates from the card's table; {_duration(plan.seconds_per_step)} a step"
    if plan.machine.on_cpu:
        return "no time of a step is known for a CPU"
    if plan.machine.gpu is None:
        return "no time of a step is known for a card without a name: --gpu NAME gives it one"
    return f"no time of a step is known for {plan.machine.gpu.name}: the table of cards has no measured rate for it"


def _streamed_text(plan: MemoryPlan) -> str:
    if not plan.streamed_bytes_per_step:
        return ""
    ring = f" and a ring of {plan.ring}" if plan.ring else ""
    return f"; {gib(plan.streamed_bytes_per_step)} a step through {plan.slots} slots{ring}"


def tile_text(plan: MemoryPlan) -> str:
    """How the decode goes, and whether its pixels are the official ones."""
    if not plan.work.tiled:
        return "decoded in one tile" + (", in chunks of time" if plan.lean_decode else "")
    tile = f"tiles of {plan.tile.frames + 1}x{plan.tile.height}x{plan.tile.width} latents"
    if plan.official_tile:
        return f"{tile} (official)" + (", in chunks of time" if plan.lean_decode else "")
    return f"{tile}: smaller than the official ones, the pixels differ slightly"


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return "not known"
    if seconds < 90:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
