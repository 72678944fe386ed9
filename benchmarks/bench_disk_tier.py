"""Resident memory of a run, read from outside its process, beside the plan's bytes and the cap.

    python -m hvlite.benchmarks.bench_disk_tier MODEL --output result.json
    python -m hvlite.benchmarks.bench_disk_tier FULL_SIZE --transformer-only --as hunyuan-video-fp8 --output result.json

The first runs `hvlite generate` on a converted model, once in each tier. The second is for a folder that has nothing
but a transformer (of full size, say): it denoises random embeddings from disk, and its sizes are those of a preset.
Linux: what is read is VmHWM of /proc/PID/status, the most that was ever resident, page cache apart.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from ..lite.planning.blocks import choose_blocks
from ..lite.planning.limits import parse_bytes
from ..lite.planning.model import plan_model
from ..lite.planning.types import Machine, Work
from ..lite.streaming.tiers import TIERS

POLL_S = 0.02
PROMPT = "a red circle moves to the right"
_FIELD = re.compile(r"^(VmHWM|RssAnon|RssFile):\s+(\d+) kB$", re.MULTILINE)


def watch(command: Sequence[str]) -> tuple[list[str], dict[str, Any]]:
    """Run a command; its lines on stdout, and what it held at most. CalledProcessError where it fails."""
    began = time.monotonic()
    with (
        tempfile.TemporaryFile("w+") as out,
        subprocess.Popen(command, stdout=out, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}) as process,
    ):
        peaks: dict[str, int] = {}
        while process.poll() is None:
            for name, nbytes in resident_bytes(process.pid).items():
                peaks[name] = max(nbytes, peaks.get(name, 0))
            time.sleep(POLL_S)
        if process.returncode:
            raise subprocess.CalledProcessError(process.returncode, list(command))
        out.seek(0)
        lines = out.read().splitlines()
    return lines, {
        "peak_rss_bytes": peaks["VmHWM"],
        "peak_anonymous_bytes": peaks["RssAnon"],
        "seconds": round(time.monotonic() - began, 2),
    }


def resident_bytes(pid: int) -> dict[str, int]:
    """VmHWM, RssAnon and RssFile of a process; empty where it has just ended."""
    try:
        text = Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return {}
    return {name: int(kib) << 10 for name, kib in _FIELD.findall(text)}


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
    return {
        "tier": ran["tier"],
        "cap_bytes": cap,
        "planned_bytes": plan["peak_ram_bytes"],
        "streamed_bytes": sum(stage["streamed_bytes"] for stage in plan["stages"] if stage["name"] == "denoise"),
        **measured,
    }


def _size_options(work: Work) -> list[str]:
    size = ["--video-size", str(work.height), str(work.width)]
    return [*size, "--frames", str(work.frames), "--steps", str(work.steps)]


def denoise(model: Path, preset: str, work: Work, cap: int) -> dict[str, Any]:
    """A transformer's steps from disk, in a process of their own."""
    machine = Machine(vram_bytes=0, ram_bytes=cap)
    chosen = choose_blocks(plan_model(preset), work, machine, "disk")
    size = json.dumps([work.height, work.width, work.frames, work.steps, chosen.step.chunk])
    lines, measured = watch([sys.executable, "-m", "hvlite.benchmarks.bench_disk_tier", "--step", str(model), size])
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
    parser.add_argument("--ram-limit", default="4GiB")
    parser.add_argument("--video-size", type=int, nargs=2, default=(64, 64))
    parser.add_argument("--frames", type=int, default=5)
    parser.add_argument("--steps", type=int, default=1)
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    height, width = arguments.video_size
    work = Work(height=height, width=width, frames=arguments.frames, steps=arguments.steps)
    cap = parse_bytes("--ram-limit", arguments.ram_limit)
    if arguments.transformer_only:
        result = report([denoise(arguments.model, arguments.preset, work, cap)], work, "transformer")
    else:
        result = report([generate(arguments.model, tier, work, cap) for tier in TIERS], work, "all")
    text = json.dumps(result, indent=1)
    print(text)
    if arguments.output:
        arguments.output.parent.mkdir(parents=True, exist_ok=True)
        arguments.output.write_text(text + "\n")


if __name__ == "__main__":
    main()
