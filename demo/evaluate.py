"""Measure the demo model on held-out captions: `python -m hvlite.demo.evaluate --prompts 128`.

Generates through the public API, reads the frames with `scoring`, prints a table; `--out demo/RESULTS.json` keeps it.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from statistics import mean, median
from typing import Any

import torch
from torch import Tensor

from . import captions, data
from .scoring import look

TARGETS = {
    "vae_psnr_db": 30.0,
    "vae_shape": 0.92,
    "colour": 0.95,
    "motion": 0.90,
    "shape": 0.80,
    "seconds_per_video": 10.0,
}


@dataclass(frozen=True)
class Case:
    """One prompt and what its video should show."""

    index: int
    prompt: str
    scene: data.Scene


@dataclass(frozen=True)
class Outcome:
    """What was right, and how long the video took. `background` of a caption that names none: any plain one."""

    prompt: str
    colour: bool
    shape: bool
    motion: bool
    background: bool
    seen: str
    seconds: float


def cases(count: int) -> list[Case]:
    """The first `count` held-out prompts: always the same ones."""
    out = []
    for index in range(count):
        rng = random.Random(50_000 + index)
        scene = data.sample_scene(rng, held_out=True)
        out.append(Case(index, captions.caption(scene, rng), scene))
    return out


def judge(case: Case, frames: Tensor, seconds: float) -> Outcome:
    """Compare a generated video, uint8 [F, H, W, 3], with its prompt."""
    seen = look(frames)
    named = "background" in case.prompt.lower()
    background = seen.background == frozenset(case.scene.background) if named else len(seen.background) == 1
    return Outcome(
        case.prompt,
        seen.colour == case.scene.colour,
        seen.shape == case.scene.shape,
        seen.motion == case.scene.motion,
        background,
        f"{seen.colour} {seen.shape} {seen.motion}",
        seconds,
    )


def generate(model: Path | None, todo: Sequence[Case], settings: dict[str, Any]) -> list[Outcome]:
    """Videos of the cases, one by one, with seeds that follow from their numbers."""
    from .. import load

    torch.set_num_threads(1)
    pipeline = load(model, device="cpu", keep_loaded=True)
    pipeline.generate("warm up", seed=0, steps=1)
    out = []
    for case in todo:
        began = time.perf_counter()
        video = pipeline.generate(case.prompt, seed=1000 + case.index, **settings)
        out.append(judge(case, video.frames, time.perf_counter() - began))
    return out


@torch.no_grad()
def reconstruct(model: Path | None, count: int) -> dict[str, float]:
    """PSNR and what is still recognised after the VAE's encode and decode of held-out scenes."""
    from .. import load_vae
    from ..lite.card import demo_root
    from ..lite.video import frames_to_uint8

    vae = load_vae(model or demo_root(), device="cpu")
    psnr, right = [], {"colour": 0, "shape": 0, "motion": 0}
    for index in range(count):
        scene = data.sample_scene(random.Random(90_000 + index), held_out=True)
        video = data.render(scene, 17, 80, 80)[None]
        decoded = vae.decode(vae.encode(video).chunk(2, dim=1)[0])
        psnr.append(float(-10 * ((decoded.clamp(-1, 1) - video) / 2).square().mean().log10()))
        seen = look(frames_to_uint8(decoded))
        for name in right:
            right[name] += getattr(seen, name) == getattr(scene, name)
    shares = {f"vae_{name}": hits / count for name, hits in right.items()}
    return {"vae_psnr_db": mean(psnr), "vae_psnr_worst_db": min(psnr), **shares}


def summarise(outcomes: list[Outcome], vae: dict[str, float]) -> dict[str, float]:
    """Shares of the prompts, and the median time."""
    names = ("colour", "motion", "shape", "background")
    shares = {name: sum(getattr(outcome, name) for outcome in outcomes) / len(outcomes) for name in names}
    together = sum(o.colour and o.motion and o.shape for o in outcomes) / len(outcomes)
    seconds = median(outcome.seconds for outcome in outcomes)
    return {**vae, **shares, "all_three": together, "seconds_per_video": seconds}


def table(results: dict[str, float]) -> str:
    """A markdown table with the targets beside the figures."""
    lines = ["| figure | measured | target | |", "|---|---|---|---|"]
    for name, value in results.items():
        target = TARGETS.get(name)
        met = "" if target is None else _verdict(name, value, target)
        unit = name.endswith(("_db", "_video"))
        shown = [f"{v:.1f}" if unit else f"{100 * v:.1f} %" for v in (value, *([target] if target is not None else []))]
        lines.append(f"| {name} | {shown[0]} | {shown[1] if target is not None else ''} | {met} |")
    return "\n".join(lines)


def _verdict(name: str, value: float, target: float) -> str:
    return "met" if (value <= target if name.startswith("seconds") else value >= target) else "missed"


def main() -> None:
    """Parse the arguments and run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--prompts", type=int, default=128)
    parser.add_argument("--model", type=Path, help="a model folder; the shipped one without it")
    parser.add_argument("--ranks", type=int, default=2, help="single-threaded processes that share the prompts")
    parser.add_argument("--settings", default="{}", help='JSON, as {"steps": 10}')
    parser.add_argument("--out", type=Path, help="write the figures here, as JSON")
    parser.add_argument("--verbose", action="store_true", help="print every prompt that went wrong")
    args = parser.parse_args()
    todo, settings = cases(args.prompts), json.loads(args.settings)
    with ProcessPoolExecutor(args.ranks, mp_context=get_context("spawn")) as pool:
        jobs = [pool.submit(generate, args.model, todo[rank :: args.ranks], settings) for rank in range(args.ranks)]
        outcomes = [outcome for job in jobs for outcome in job.result()]
    results = summarise(outcomes, reconstruct(args.model, min(args.prompts, 64)))
    if args.verbose:
        for outcome in outcomes:
            if not (outcome.colour and outcome.shape and outcome.motion):
                print(f"{outcome.prompt!r} -> {outcome.seen}")
    print(table(results))
    if args.out:
        args.out.write_text(json.dumps({"prompts": args.prompts, "settings": settings, **results}, indent=2) + "\n")


if __name__ == "__main__":
    main()
