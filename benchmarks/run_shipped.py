"""The model that ships, from prompt to file as `hvlite generate` runs it: each stage's time and peak memory.

    python -m hvlite.benchmarks.run_shipped [FOLDER] --tier disk

Runs in a process of its own and prints a file of results as JSON. FOLDER: the same model, converted.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..lite.card import demo_root
from ..lite.config import GenerateConfig
from ..lite.pipeline import Pipeline, load
from ..lite.planning.request import PlanOptions, make_plan
from ..lite.planning.types import MemoryPlan
from ..lite.sampling import initial_latents
from ..lite.video import write_video
from .results import BenchFile, Result, Timeline, check_gate
from .run_planned import FrameCount, against_plan, planned_stage
from .suite import new_file
from .timing import summarise
from .watch import Watch

PART = "generate"
PROMPT = "a red circle moves to the right"


class ShippedRun:
    """The stages of one video, each watched."""

    def __init__(self, pipeline: Pipeline, plan: MemoryPlan, name: str) -> None:
        self.pipeline, self.plan, self.name = pipeline, plan, name
        self.config = GenerateConfig.from_card(pipeline.card, prompt=PROMPT, seed=7)
        self.device = pipeline.parts.device.device
        self.results: list[Result] = []
        self.watches: list[Watch] = []
        self._began = time.monotonic()

    def run(self, output: Path) -> None:
        """Everything, in order."""
        conditioning = self._stage("text", lambda: self.pipeline.embed(self.config), _finite_text)
        start = initial_latents(self.config)
        latents = self._stage(
            "denoise", lambda: [*self.pipeline.denoise(self.config, conditioning, start)][-1][1], _finite
        )
        self._stage("decode", lambda: self._write(output, latents), lambda frames: frames == self.config.frames)

    def _write(self, output: Path, latents: Tensor) -> int:
        counted = FrameCount()
        chunks = counted.passing(self.pipeline.decode(latents))
        write_video(output, chunks, fps=self.config.fps, settings={}, force=True)
        return counted.frames

    def _stage(self, name: str, work: Callable[[], Any], is_right: Callable[[Any], bool]) -> Any:
        began = time.perf_counter()
        with Watch(self.device, name, self._began) as watch:
            made = work()
        seconds = time.perf_counter() - began
        peaks = watch.peaks()
        self.watches.append(watch)
        values = against_plan(self.plan, planned_stage(self.plan, name), peaks)
        steps = self.config.steps if name == "denoise" else 1
        self.results.append(
            Result(
                part=PART,
                case=f"{self.name}: {name}",
                gate=check_gate(is_right(made), "finite, of the right length"),
                seconds=summarise([seconds]),
                peaks=peaks,
                values={"steps": steps, "each_s": seconds / steps, **values},
            )
        )
        return made


def _finite(latents: Tensor) -> bool:
    return bool(torch.isfinite(latents).all())


def _finite_text(conditioning: Any) -> bool:
    return _finite(conditioning.positive.prompt_embeds)


def measure(folder: Path | None, tier: str, device: str) -> BenchFile:
    """One run; its memory over time is in the file."""
    model = demo_root() if folder is None else folder
    plan = make_plan(PlanOptions(model=str(model), tier=tier, device=device))
    name = f"{'converted' if folder else 'shipped'} model, {tier}"
    run = ShippedRun(load(model, device=device, tier=tier, prompt_cache=False), plan, name)
    with tempfile.TemporaryDirectory(prefix="hvlite-bench-") as work:
        run.run(Path(work) / "video.mp4")
    samples = tuple(sample for watch in run.watches for sample in watch.samples)
    made = new_file(run.device, {"tier": tier})
    return replace(made, results=tuple(run.results), timelines=(Timeline(part=PART, case=name, samples=samples),))


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folder", type=Path, nargs="?")
    parser.add_argument("--tier", default="resident")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--threads", type=int)
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    json.dump(measure(arguments.folder, arguments.tier, arguments.device).to_json(), sys.stdout)


if __name__ == "__main__":
    main()
