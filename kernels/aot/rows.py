"""Judges what the compiler made of a case, and says it as a row of the table. Needs no Triton."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..launch import CompileCase, Launch
from ..tuning import LAUNCHES
from .static_bound import CARDS, Bound, blocks_per_sm, static_bound

if TYPE_CHECKING:
    from .compile import Compiled


def judge(case: CompileCase, made: Compiled) -> str | None:
    """What is wrong with a compiled case, or None."""
    card = CARDS[case.capability]
    problems = []
    if made.spill_bytes or made.loop.local:
        problems.append(f"spills {made.spill_bytes} bytes")
    if made.shared_bytes > card.shared_limit_bytes:
        problems.append(f"{made.shared_bytes:,} bytes of shared memory; {card.name} has {card.shared_limit_bytes:,}")
    elif not blocks_per_sm(card, made.registers, made.shared_bytes, case.launch.num_warps):
        problems.append(f"cannot be launched: {made.registers} registers x {case.launch.num_warps} warps")
    missing = [part for part in (case.tensor_core or "").split() if not any(part in each for each in made.products)]
    if missing:
        found = ", ".join(made.products) or "none"
        problems.append(f"no tensor-core instruction {' and '.join(missing)}; found {found}")
    return "; ".join(problems) or None


def row_of(case: CompileCase, made: Compiled) -> dict[str, Any]:
    """A case as a row of the table; rates in tera-operations a second."""
    bound = static_bound(made.loop, case.launch.num_warps, case.loop_flops, CARDS[case.capability])
    warps = case.launch.num_warps
    return {
        **_named(case),
        "shared_bytes": made.shared_bytes,
        "registers": made.registers,
        "spill_bytes": made.spill_bytes,
        "blocks_per_sm": blocks_per_sm(CARDS[case.capability], made.registers, made.shared_bytes, warps),
        "instruction": " + ".join(made.products) or None,
        "loop_instructions": made.loop.instructions,
        **_rates(bound),
        "problem": judge(case, made),
    }


def failed_row(case: CompileCase, error: Exception) -> dict[str, Any]:
    """The row of a case that did not compile."""
    text = (str(error).strip().splitlines() or [""])[-1]
    return {**_named(case), "problem": f"does not compile: {type(error).__name__}: {text[:200]}"}


def _named(case: CompileCase) -> dict[str, Any]:
    return {
        "kernel": case.name,
        "capability": case.capability,
        "launch": shown(case.launch),
        "tuning": tuned_as(case),
        "why": case.launch.why,
    }


def _rates(bound: Bound | None) -> dict[str, float | None]:
    names = {"bound_tops": "bound", "tensor_tops": "tensor", "issue_tops": "issue"}
    return {name: None if bound is None else round(getattr(bound, field), 1) for name, field in names.items()}


def tuned_as(case: CompileCase) -> list[str]:
    """The entries of the tuning table that this case has compiled."""
    return sorted(name for name, entries in LAUNCHES.items() if entries.get(case.capability) is case.launch)


def shown(launch: Launch) -> str:
    """A launch in a few letters: 128x64 w8 s3."""
    tiles = "x".join(str(size) for size in launch.tiles.values()) or "-"
    return f"{tiles} w{launch.num_warps} s{launch.num_stages}"
