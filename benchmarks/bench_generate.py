"""Whole runs, each in a process of its own: on a card full-size random weights under caps, and the shipped model."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator

import torch

from ..errors import HvliteError
from ..lite.card import demo_root
from ..lite.planning.limits import gib
from ..quantize.convert import QuantizeOptions, run_quantize
from .cases import LARGEST
from .results import BenchFile, Result, parse_results
from .suite import BenchOptions

PART = "generate"
CAPS_GIB = (24, 16, 12, 8)
GIB = 1 << 30
START_S = 60.0  # to import, make weights and load them


def run(options: BenchOptions) -> Iterator[Result]:
    """The shipped model in its tiers; on a card then the largest case under every cap that the card has."""
    yield from _shipped(options)
    if options.device.type == "cuda":
        yield from _capped(options)


def _shipped(options: BenchOptions) -> Iterator[Result]:
    folder = options.work / "converted"
    made = QuantizeOptions(demo_root(), folder, transformer="fp8", text_encoder="bf16", vae="fp32")
    run_quantize(made)
    threads = ["--threads", str(torch.get_num_threads())]
    for where, tier in (([], "resident"), ([str(folder)], "resident"), ([str(folder)], "disk")):
        name = f"{'converted' if where else 'shipped'} model, {tier}"
        arguments = [*where, "--tier", tier, "--device", options.device.type, *threads]
        yield from _child(options, "run_shipped", arguments, name)


def _capped(options: BenchOptions) -> Iterator[Result]:
    """Largest cap first: there the blocks are resident, which the others are compared with."""
    total = torch.cuda.get_device_properties(options.device).total_memory
    caps = [cap * GIB for cap in CAPS_GIB if cap * GIB <= min(total, options.vram_limit_bytes or total)]
    torch.cuda.empty_cache()
    resident: float | None = None
    for cap in caps or [options.vram_limit_bytes or total]:
        arguments = [LARGEST.name, "--vram-limit", f"{cap}B"]
        for result in _child(options, "run_planned", arguments, f"{LARGEST.name} in {gib(cap)}"):
            if result.seconds and "denoise" in result.case:
                resident = resident or (result.seconds.median if result.values["blocks"] == "resident" else None)
                if resident:
                    result.values["to_resident_ratio"] = result.seconds.median / resident
            yield result


def _child(options: BenchOptions, module: str, arguments: list[str], name: str) -> Iterator[Result]:
    """The results of a process of its own; one that fails is left out with its last words."""
    if options.seconds_left <= 0:
        options.skip(PART, f"{name}: no time was left")
        return
    command = [sys.executable, "-m", f"hvlite.benchmarks.{module}", *arguments]
    limit = max(options.seconds_left, START_S) * 2
    began = time.monotonic()
    try:
        ended = subprocess.run(command, capture_output=True, text=True, timeout=limit)
    except subprocess.TimeoutExpired:
        options.skip(PART, f"{name}: not done after {time.monotonic() - began:.0f} s")
        return
    if ended.returncode:
        options.skip(PART, f"{name}: {(ended.stderr.strip().splitlines() or ['it failed'])[-1]}")
        return
    made = _parsed(ended.stdout, name)
    options.timelines.extend(made.timelines)
    yield from made.results


def _parsed(text: str, name: str) -> BenchFile:
    try:
        return parse_results(json.loads(text.splitlines()[-1]), name)
    except (ValueError, IndexError) as error:
        raise HvliteError(f"{name}: no result: {error}", hint="run hvlite bench generate again") from error
