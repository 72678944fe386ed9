"""What fits where the size asked for does not: fewer frames, a smaller picture, a higher cap (arithmetic only)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from math import prod

from ..card import OFFICIAL_SIZES
from ..request.sizes import SIZE_STEP
from .types import GIB, Machine, MemoryPlan, Setting, Work, last_fitting

Arrange = Callable[[Work, Machine], MemoryPlan]
CAP_STEP_BYTES = GIB // 2
HIGHEST_CAP_BYTES = 256 * GIB
SAME_SHAPE = 0.05  # 544x960 is called 16:9


def nearest_settings(arrange: Arrange, work: Work, machine: Machine) -> tuple[Setting, ...]:
    """One of each kind, where there is one."""
    found = (search(arrange, work, machine) for search in (_fewer_frames, _smaller, _higher_cap))
    return tuple(setting for setting in found if setting is not None)


def _fewer_frames(arrange: Arrange, work: Work, machine: Machine) -> Setting | None:
    """The longest video of this size."""
    counts = range(1, work.frames, 4)
    index = last_fitting(counts, lambda frames: arrange(replace(work, frames=frames), machine).fits)
    if index is None:
        return None
    plan = arrange(replace(work, frames=counts[index]), machine)
    return _setting(f"--frames {counts[index]}", plan)


def _smaller(arrange: Arrange, work: Work, machine: Machine) -> Setting | None:
    """The largest picture of nearly this shape: an official size, else a multiple of 16."""
    for sizes in _smaller_sizes(work):
        plans = [replace(work, height=height, width=width) for height, width in sizes]
        index = last_fitting(range(len(plans)), lambda i, plans=plans: arrange(plans[i], machine).fits)  # type: ignore[misc]
        if index is not None:
            plan = arrange(plans[index], machine)
            return _setting(f"--video-size {plan.work.height} {plan.work.width}", plan)
    return None


def _smaller_sizes(work: Work) -> Iterator[list[tuple[int, int]]]:
    """Official sizes of this shape, then all others of this shape; each list from the smallest to the largest."""
    shape = work.width / work.height
    official = {size for by_aspect in OFFICIAL_SIZES.values() for size in by_aspect.values()}
    smaller = [size for size in official if prod(size) < work.height * work.width]
    yield sorted((size for size in smaller if abs(size[1] / size[0] / shape - 1) < SAME_SHAPE), key=prod)
    heights = range(SIZE_STEP, work.height, SIZE_STEP)
    yield [(height, max(SIZE_STEP, round(height * shape / SIZE_STEP) * SIZE_STEP)) for height in heights]


def _higher_cap(arrange: Arrange, work: Work, machine: Machine) -> Setting | None:
    """The lowest caps under which this very work fits: the card's with all host memory it wants, then the host's."""
    enough = max(HIGHEST_CAP_BYTES, machine.ram_bytes)
    vram = machine.vram_bytes
    if not machine.on_cpu:
        found = _lowest_cap(vram, lambda cap: arrange(work, replace(machine, vram_bytes=cap, ram_bytes=enough)).fits)
        if found is None:
            return None
        vram = found
    card = replace(machine, vram_bytes=vram)
    ram = _lowest_cap(machine.ram_bytes, lambda cap: arrange(work, replace(card, ram_bytes=cap)).fits)
    if ram is None:
        return None
    changed = (("--vram-limit", vram, machine.vram_bytes), ("--ram-limit", ram, machine.ram_bytes))
    options = [f"{name} {cap / GIB:g}GiB" for name, cap, before in changed if cap != before]
    return _setting(" ".join(options), arrange(work, replace(card, ram_bytes=ram)))


def _lowest_cap(given: int, fits: Callable[[int], bool]) -> int | None:
    """`given` where it fits, else the lowest multiple of half a GiB above it that does."""
    if fits(given):
        return given
    steps = range(HIGHEST_CAP_BYTES // CAP_STEP_BYTES, given // CAP_STEP_BYTES, -1)
    caps = [step * CAP_STEP_BYTES for step in steps]
    index = last_fitting(caps, fits)
    return None if index is None else caps[index]


def _setting(option: str, plan: MemoryPlan) -> Setting:
    work = plan.work
    return Setting(option, work.height, work.width, work.frames, plan.peak_vram_bytes, plan.peak_ram_bytes)
