"""Resident memory of a run, read from outside its process, beside the plan's bytes and the cap.

    python -m hvlite.benchmarks.bench_disk_tier MODEL --output result.json
    python -m hvlite.benchmarks.bench_disk_tier FOLDER --make full --tiers disk --ram-limit 16GiB 8GiB --output r.json
    python -m hvlite.benchmarks.bench_disk_tier FULL_SIZE --transformer-only --as hunyuan-video-fp8 --output result.json

The first runs `hvlite generate` on a converted model, once in each tier. The second makes a random model of full size
before, or what FOLDER lacks of one. The third is for a folder that has nothing but a transformer: it denoises random
embeddings from disk, and its sizes are those of a preset.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from ..lite.planning.blocks import choose_blocks
from ..lite.planning.limits import parse_bytes
from ..lite.planning.model import plan_model
from ..lite.planning.types import Machine, Work
from ..lite.streaming.tiers import TIERS
from .full_size_folder import complete_folder
from .outside import watch

PROMPT = ", ".join(["a red circle moves to the right"] * 20)  # longer than the language model reads: its most work
# What a run reports as a stage, and the stages that the plan has for it.
PLANNED_AS = {"embed": ("text",), "denoise": ("modulation", "denoise"), "decode": ("decode", "write")}


def generate(model: Path, tier: str, work: Work, cap: int) -> dict[str, Any]:
    """`hvlite generate` in one tier."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "hvlite.cli", "generate", PROMPT, "--model", str(model), "--json"]
        command += ["--output", f"{folder}/video.mp4", "--device", "cpu", "--threads", "1", "--no-prompt-cache"]
        command += ["--tier", tier, "--ram-limit", f"{cap}B", "--seed", "1", *_size_options(work)]
        lines, measured = watch(command)
    events = [json.loads(line) for line in lines]
    plan = next(event["plan"] for event in events if "plan" in event)
    ran = next(event["summary"] for event in events if "summary" in event)
    planned = {stage["name"]: stage for stage in plan["stages"]}
    return {
        "tier": ran["tier"],
        "cap_bytes": cap,
        "planned_bytes": plan["peak_ram_bytes"],
        "streamed_bytes": planned["denoise"]["streamed_bytes"],
        "text_by_layer": plan["text_by_layer"],
        "stages": stage_rows(planned, measured.pop("peak_rss_by_stage")),
        **measured,
    }


def stage_rows(planned: Mapping[str, Mapping[str, Any]], peaks: Mapping[str, int]) -> list[dict[str, Any]]:
    """What each stage of a run held beside what was planned for it."""
    return [
        {
            "stage": name,
            "planned_bytes": max(planned[stage]["ram_bytes"] for stage in PLANNED_AS[name]),
            "peak_rss_bytes": peak,
        }
        for name, peak in peaks.items()
        if name in PLANNED_AS
    ]


def _size_options(work: Work) -> list[str]:
    size = ["--video-size", str(work.height), str(work.width)]
    return [*size, "--frames", str(work.frames), "--steps", str(work.steps)]


def denoise(model: Path, preset: str, work: Work, cap: int) -> dict[str, Any]:
    """A transformer's steps from disk, in a process of their own."""
    machine = Machine(vram_bytes=0, ram_bytes=cap)
    chosen = choose_blocks(plan_model(preset), work, machine, "disk")
    size = json.dumps([work.height, work.width, work.frames, work.steps, chosen.step.chunk])
    lines, measured = watch([sys.executable, "-m", "hvlite.benchmarks.bench_disk_tier", "--step", str(model), size])
    del measured["peak_rss_by_stage"]  # there is but one
    on_device = max(chosen.denoise_bytes, chosen.modulation_bytes)
    return {
        "tier": "disk",
        "cap_bytes": cap,
        "planned_bytes": machine.host_base_bytes + chosen.host.peak_bytes + on_device,
        "token_chunk": chosen.step.chunk,
        **json.loads(lines[-1]),
        **measured,
    }


def run_step(model: Path, size: Sequence[int]) -> dict[str, Any]:
    """The measured work of `denoise`: random text and noise through every block, as a run does it."""
    from ..lite.sampling import denoise as steps_of
    from ..lite.sampling import flow_schedule, guidance_input
    from ..lite.streaming.streamed_transformer import open_streamed_transformer
    from ..lite.text import PromptEmbeds
    from ..lite.velocity import Velocity

    torch.set_num_threads(1)
    height, width, frames, steps, chunk = size
    generator = torch.Generator().manual_seed(0)
    loaded = open_streamed_transformer(model, torch.device("cpu"), torch.float32, tier="disk")
    config = loaded.config
    embeds = PromptEmbeds(
        torch.randn(1, 256, config.text_states_dim, generator=generator),
        torch.ones(1, 256, dtype=torch.int64),
        torch.randn(1, config.text_states_dim_2, generator=generator),
    )
    latents = torch.randn(1, 16, (frames - 1) // 4 + 1, height // 8, width // 8, generator=generator)
    schedule = flow_schedule(steps, 7.0, reverse=True)
    guidance = guidance_input(6.0, loaded.dtype) if config.guidance_embed else None
    with torch.no_grad():
        velocity = Velocity(loaded, embeds, schedule.timesteps, guidance, token_chunk=chunk)
        *_, (_, last) = steps_of(velocity, latents, schedule)
    tiers = loaded.blocks.tiers
    loaded.close()
    streamed = sum(path.stat().st_size for path in model.glob("transformer/*_blocks.*.safetensors"))
    return {
        "blocks": tiers.total,
        "finite": bool(torch.isfinite(last).all()),
        "streamed_bytes": steps * streamed,
    }


def report(runs: Sequence[dict[str, Any]], work: Work, parts: str) -> dict[str, Any]:
    """What was run, on what, and whether each run stayed below its plan and its cap."""
    return {
        "benchmark": "disk_tier",
        "parts": parts,
        "size": [work.height, work.width, work.frames],
        "steps": work.steps,
        "runs": [
            {
                **run,
                "under_cap": run["peak_rss_bytes"] <= run["cap_bytes"],
                "under_plan": run["peak_rss_bytes"] <= run["planned_bytes"],
            }
            for run in runs
        ],
        "cpu": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "torch": torch.__version__,
    }


def main() -> None:
    """Command line."""
    if sys.argv[1:2] == ["--step"]:
        print(json.dumps(run_step(Path(sys.argv[2]), json.loads(sys.argv[3]))))
        return
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("--transformer-only", action="store_true", help="the folder has no encoders and no VAE")
    parser.add_argument("--as", dest="preset", default="hunyuan-video-fp8", help="whose sizes those of the folder are")
    parser.add_argument("--make", choices=("full", "small"), help="first make the parts that the folder lacks")
    parser.add_argument("--tiers", nargs="+", choices=TIERS, default=TIERS)
    parser.add_argument("--ram-limit", nargs="+", default=["4GiB"], help="a run in each tier under each")
    parser.add_argument("--video-size", type=int, nargs=2, default=(64, 64))
    parser.add_argument("--frames", type=int, default=5)
    parser.add_argument("--steps", type=int, default=1)
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    height, width = arguments.video_size
    work = Work(height=height, width=width, frames=arguments.frames, steps=arguments.steps)
    caps = [parse_bytes("--ram-limit", limit) for limit in arguments.ram_limit]
    if arguments.make:
        complete_folder(arguments.model, small=arguments.make == "small")
    if arguments.transformer_only:
        result = report([denoise(arguments.model, arguments.preset, work, cap) for cap in caps], work, "transformer")
    else:
        runs = [generate(arguments.model, tier, work, cap) for cap in caps for tier in arguments.tiers]
        result = report(runs, work, "all")
    text = json.dumps(result, indent=1)
    print(text)
    if arguments.output:
        arguments.output.parent.mkdir(parents=True, exist_ok=True)
        arguments.output.write_text(text + "\n")


if __name__ == "__main__":
    main()
