"""A run as its plan says: denoising steps and the whole decode, each stage's peak beside the predicted one.

    python -m hvlite.benchmarks.run_planned 720x1280x129 --vram-limit 12GiB

Full-size random weights (random_model.py); the text encoders have no part in it. It runs in a process of its own, so
that peaks, the cap and the host's memory are those of this run. Prints a file of results as JSON.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..lite.device import probe_device
from ..lite.models.vae_lean import decode_lean
from ..lite.models.vae_tiles import decode_chunks
from ..lite.planning.limits import gib
from ..lite.planning.request import PlanOptions, make_plan
from ..lite.planning.types import MemoryPlan, Stage
from ..lite.streaming.streamed_blocks import StreamOptions
from ..lite.streaming.tiers import TierCounts
from ..lite.streaming.transformer_blocks import LoadedTransformer
from ..lite.tiling import TIME_RATIO
from ..lite.video import frames_to_uint8, write_video
from ..quantize.architecture import TransformerConfig, VaeConfig
from .bench_stream import step_function
from .bench_vae import random_vae
from .cases import NARROW_BLOCKS, NARROW_VAE, PROMPT_TOKENS, Case
from .random_model import make_block_store, open_random_transformer, pinned_bytes
from .results import BenchFile, Peaks, Plain, Result, Sample, Timeline, check_gate
from .suite import cap_device, new_file
from .timing import summarise, time_work
from .watch import Watch

PART = "generate"
FPS = 24


class PlannedRun:
    """One case on one device under one limit. `narrow`: blocks and a VAE narrow enough for a test."""

    def __init__(self, case: Case, plan: MemoryPlan, device: torch.device, *, steps: int, narrow: bool = False) -> None:
        self.case, self.plan, self.device, self.steps = case, plan, device, steps
        self.config = NARROW_BLOCKS if narrow else TransformerConfig()
        self.vae_config = NARROW_VAE if narrow else VaeConfig()
        self.dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
        self.samples: list[Sample] = []
        self._began = time.monotonic()

    @property
    def name(self) -> str:
        """The case and the limit."""
        limit = self.plan.machine.vram_bytes
        return f"{self.case.name} {f'in {gib(limit)}' if limit else 'on the CPU'}"

    def results(self, work: Path) -> Iterator[Result]:
        """Denoise, then decode and write; `work` is a folder for the blocks and the video."""
        yield self._denoise(work)
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        yield self._decode(work)

    @contextmanager
    def transformer(self, work: Path) -> Iterator[LoadedTransformer]:
        """The transformer as the plan places it. A narrow one, which the plan does not know, is read from disk."""
        store, plan = make_block_store(work, self.config, "int8"), self.plan
        count = len(store.files)
        tiers = plan.blocks if plan.blocks.total == count else TierCounts.all_in("disk", count)
        transformer = open_random_transformer(store, tiers, self.device, self.dtype, stream_options(plan))
        try:
            yield transformer
        finally:
            transformer.close()

    def _denoise(self, work: Path) -> Result:
        plan = self.plan
        with Watch(self.device, "denoise", self._began) as watch, self.transformer(work) as transformer:
            step = step_function(transformer, self.case, plan.token_chunk, schedule_steps=plan.work.steps)
            gate = check_gate(bool(torch.isfinite(step()).all()), "finite")  # the warm-up as well
            seconds = time_work(step, self.device, repeats=max(1, self.steps - 1), warm_up=0)
            pinned = pinned_bytes(transformer)
        self.samples += watch.samples
        values: dict[str, Plain] = {"blocks": str(plan.blocks), "token_chunk": plan.token_chunk}
        streamed, peaks = plan.streamed_bytes_per_step, watch.peaks(pinned)
        return self._result("denoise step", gate, seconds, peaks, values, streamed_bytes=streamed)

    def _decode(self, work: Path) -> Result:
        vae = random_vae(self.vae_config, self.device, torch.float16 if self.device.type == "cuda" else torch.float32)
        generator = torch.Generator().manual_seed(0)
        latents = torch.randn(1, self.vae_config.latent_channels, *self.case.latent_shape, generator=generator)
        output, counted = work / "video.mp4", FrameCount()
        began = time.perf_counter()
        with Watch(self.device, "decode", self._began) as watch:
            chunks = counted.passing(self._frames(vae, latents.to(self.device, vae.dtype)))
            write_video(output, chunks, fps=FPS, settings={}, force=True)
        seconds = summarise([time.perf_counter() - began])
        self.samples += watch.samples
        wanted = TIME_RATIO * (self.case.latent_shape[0] - 1) + 1
        gate = check_gate(counted.frames == wanted and not counted.constant, f"{wanted} frames, not of one colour")
        return self._result("decode and write", gate, seconds, watch.peaks(), {"video_bytes": output.stat().st_size})

    @torch.no_grad()
    def _frames(self, vae: Any, latents: Tensor) -> Iterator[Tensor]:
        decode_tile = partial(decode_lean, vae) if self.plan.lean_decode else vae.decode_tile
        for chunk in decode_chunks(lambda part: decode_tile(part).cpu(), latents, self.plan.tile):
            yield frames_to_uint8(chunk)

    def _result(
        self, what: str, gate: str, seconds: Any, peaks: Peaks, values: dict[str, Plain], streamed_bytes: int = 0
    ) -> Result:
        stage = planned_stage(self.plan, what.split()[0])
        return Result(
            part=PART,
            case=f"{self.name}: {what}",
            gate=gate,
            seconds=seconds,
            peaks=peaks,
            streamed_bytes=streamed_bytes,
            values={**values, **against_plan(self.plan, stage, peaks)},
            settings={"vram_limit_bytes": self.plan.machine.vram_bytes, "tokens": self.case.tokens, "scheme": "int8"},
        )


class FrameCount:
    """Counts the frames that pass, and looks whether they show anything."""

    def __init__(self) -> None:
        self.frames, self.constant = 0, True

    def passing(self, chunks: Iterator[Tensor]) -> Iterator[Tensor]:
        """The chunks as they are."""
        for chunk in chunks:
            self.frames += chunk.shape[0]
            self.constant = self.constant and bool((chunk == chunk.flatten()[0]).all())
            yield chunk


def stream_options(plan: MemoryPlan) -> StreamOptions:
    """The plan's slots and ring; a plan without streamed blocks has none, and then these are not used."""
    return StreamOptions(slots=max(2, plan.slots), ring=max(1, plan.ring), pinned_limit_bytes=plan.machine.pinned_bytes)


def planned_stage(plan: MemoryPlan, name: str) -> Stage:
    """The plan's stage of that name."""
    return next(stage for stage in plan.stages if stage.name == name)


def against_plan(plan: MemoryPlan, stage: Stage, peaks: Peaks) -> dict[str, Plain]:
    """What the plan promised for a stage and how the measured peak compares."""
    values: dict[str, Plain] = {"planned_bytes": stage.vram_bytes, "reserve_bytes": plan.reserve_bytes}
    if peaks.allocated_bytes:
        values["allocated_to_planned_ratio"] = peaks.allocated_bytes / stage.vram_bytes
    if plan.machine.on_cpu:
        values = {"planned_bytes": stage.ram_bytes}
        if peaks.rss_bytes:
            values["rss_to_planned_ratio"] = peaks.rss_bytes / stage.ram_bytes
    return values


def make_run(case: Case, vram_limit: str | None, device: str, steps: int, *, narrow: bool = False) -> PlannedRun:
    """The plan for a card like this under the limit, and the run of it. The cap is set before anything is loaded."""
    info = probe_device(device)
    options = PlanOptions(
        model="hunyuan-video-int8",
        video_size=(case.height, case.width),
        frames=case.frames,
        vram_limit=vram_limit,
        device=device,
    )
    plan = make_plan(options)
    if info.is_cuda:
        cap_device(info.device, plan.machine.vram_bytes)
    return PlannedRun(case, plan, info.device, steps=steps, narrow=narrow)


def measure(planned: PlannedRun) -> BenchFile:
    """Run it in a folder that is removed; the memory over time is in the file."""
    made = new_file(planned.device, {"vram_limit_bytes": planned.plan.machine.vram_bytes})
    with tempfile.TemporaryDirectory(prefix="hvlite-bench-") as work:
        results = tuple(planned.results(Path(work)))
    timeline = Timeline(part=PART, case=planned.name, samples=tuple(planned.samples))
    return replace(made, results=results, timelines=(timeline,))


def parse_case(text: str) -> Case:
    """720x1280x129 as a case."""
    height, width, frames = (int(word) for word in text.split("x"))
    return Case(height, width, frames, PROMPT_TOKENS)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("case", type=parse_case)
    parser.add_argument("--vram-limit")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--steps", type=int, default=2)
    arguments = parser.parse_args()
    made = measure(make_run(arguments.case, arguments.vram_limit, arguments.device, arguments.steps))
    json.dump(made.to_json(), sys.stdout)


if __name__ == "__main__":
    main()
