"""On a card: a 13B step of the same shape by hvlite and by diffusers' ways to run it, each in a process of its own."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch

from .cases import LARGEST, MEDIUM, Case
from .results import NotRun, Peaks, Plain, Result, Seconds, check_gate
from .suite import BenchOptions

PART = "peers"
RESIDENT_BYTES = 45 << 30  # 24 GiB of bf16 weights and what a step of 720p takes beside them
START_S = 120.0


@dataclass(frozen=True)
class Way:
    """A way to run the step."""

    maker: str
    mode: str = "resident"
    attention: str = "native"
    needs: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        return "hvlite" if self.maker == "hvlite" else f"diffusers {self.mode}, {self.attention} attention"


WAYS = (
    Way("hvlite"),
    Way("diffusers", "group-offload"),
    Way("diffusers", "resident"),
    Way("diffusers", "resident", "_native_cudnn"),
    Way("diffusers", "resident", "sage", ("sageattention",)),
    Way("diffusers", "torchao-fp8", needs=("torchao",)),
    Way("diffusers", "torchao-int8", needs=("torchao",)),
)


def run_cuda(options: BenchOptions) -> Iterator[Result]:
    """Every way, the largest case first where the card and the time allow it."""
    total = options.vram_limit_bytes or torch.cuda.get_device_properties(options.device).total_memory
    case = LARGEST if options.seconds_left > 2 * START_S else MEDIUM[2]
    torch.cuda.empty_cache()
    ours: Result | None = None
    for way in WAYS:
        reason = _reason_against(way, total, options.seconds_left)
        found = NotRun(part=PART, reason=reason) if reason else _measure(options, way, case, ours)
        if isinstance(found, NotRun):
            options.skip(PART, f"{case.name} {way.name}: {found.reason}")
            continue
        ours = ours or found
        yield found


def _reason_against(way: Way, total: int, seconds_left: float) -> str:
    missing = [name for name in way.needs if importlib.util.find_spec(name) is None]
    if missing:
        return f"{missing[0]} is not installed"
    if way.maker == "diffusers" and way.mode == "resident" and total < RESIDENT_BYTES:
        return f"needs about {RESIDENT_BYTES >> 30} GiB"
    return "no time was left" if seconds_left <= 0 else ""


def _measure(options: BenchOptions, way: Way, case: Case, ours: Result | None) -> Result | NotRun:
    command = [sys.executable, "-W", "ignore", "-m", "hvlite.benchmarks.peer_step", way.maker, case.name]
    command += ["--mode", way.mode, "--attention", way.attention, "--device", options.device.type]
    if options.vram_limit_bytes:
        command += ["--vram-limit", f"{options.vram_limit_bytes}B"]
    limit = START_S + 2 * max(0.0, options.seconds_left)
    try:
        ended = subprocess.run(command, capture_output=True, text=True, timeout=limit)
    except subprocess.TimeoutExpired:
        return NotRun(part=PART, reason=f"not done after {limit:.0f} s")
    if ended.returncode:
        return NotRun(part=PART, reason=(ended.stderr.strip().splitlines() or ["it failed"])[-1])
    return _result(json.loads(ended.stdout.splitlines()[-1]), way, case, options, ours)


def _result(found: dict[str, Any], way: Way, case: Case, options: BenchOptions, ours: Result | None) -> Result:
    seconds, peaks = Seconds(**found["seconds"]), Peaks(**found["peaks"])
    values: dict[str, Plain] = {"time_to_hvlite_ratio": 1.0}
    if ours is not None and ours.seconds and ours.peaks:
        values["time_to_hvlite_ratio"] = seconds.median / ours.seconds.median
        if peaks.allocated_bytes and ours.peaks.allocated_bytes:
            values["memory_to_hvlite_ratio"] = peaks.allocated_bytes / ours.peaks.allocated_bytes
    return Result(
        part=PART,
        case=f"{case.name} step, random weights: {way.name}",
        gate=check_gate(bool(found["finite"]), "finite"),
        seconds=seconds,
        peaks=peaks,
        values=values,
        settings={"vram_limit_bytes": options.vram_limit_bytes, "mode": way.mode, "attention": way.attention},
    )
