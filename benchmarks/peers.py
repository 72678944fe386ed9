"""hvlite beside what a user would pick instead, doing the same work in the same run; all times as ratios too.

On any machine: the model that ships against diffusers' HunyuanVideoPipeline on the same weights, text and noise (import
time, time a step, decode, peak of resident memory). On a card as well: a 13B step with random weights (peers_cuda.py).
"""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch

from ..errors import HvliteError
from ..lite.card import demo_root, load_card
from ..lite.config import GenerateConfig
from ..lite.pipeline import load
from ..lite.sampling import initial_latents
from .diffusers_tree import write_diffusers_tree
from .peer_video import DIFFUSERS, INPUTS, SETTINGS
from .results import Peaks, Plain, Result, Seconds, check_gate
from .suite import BenchOptions
from .timing import summarise

PART = "peers"
PROMPT = "a red circle moves to the right"
MAKERS = ("hvlite", "diffusers")
IMPORTS = {"hvlite": "from hvlite.lite.pipeline import load", "diffusers": "from diffusers import HunyuanVideoPipeline"}
ROUNDS, IMPORT_ROUNDS = 3, 7  # an import is short, and a disk's cache shows in it
LATENTS_TOLERANCE = 1e-3
GIVEN = ("height", "width", "frames", "steps", "guidance_scale", "flow_shift", "seed")


def run(options: BenchOptions) -> Iterator[Result]:
    """The shipped model, then on a card the 13B step."""
    if importlib.util.find_spec("diffusers") is None:
        options.skip(PART, "diffusers is not installed (pip install diffusers)")
        return
    yield from _imports()
    yield from _videos(options)
    if options.device.type == "cuda":
        from .peers_cuda import run_cuda

        yield from run_cuda(options)


def _imports() -> Iterator[Result]:
    """Turn by turn, each in a fresh process: what a machine does beside it meets both."""
    times: dict[str, list[float]] = {maker: [] for maker in MAKERS}
    for _ in range(IMPORT_ROUNDS):
        for maker in MAKERS:
            times[maker].append(_import_s(IMPORTS[maker]))
    yield from _pair("import", {maker: summarise(each) for maker, each in times.items()}, "imports without an error")


def _import_s(statement: str) -> float:
    code = f"import time; began = time.perf_counter()\n{statement}\nprint(time.perf_counter() - began)"
    ended = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=True)
    return float(ended.stdout.split()[-1])


def _videos(options: BenchOptions) -> Iterator[Result]:
    folder = options.work / "peers"
    prepare_video(folder)
    rounds: dict[str, list[dict[str, Any]]] = {maker: [] for maker in MAKERS}
    for _ in range(ROUNDS):
        for maker in MAKERS:
            rounds[maker].append(_video(maker, folder))
    gate = _gate(folder)
    steps = {maker: summarise(_kept(each)) for maker, each in rounds.items()}
    yield from _pair("denoise step", steps, gate, rounds)
    decodes = {maker: summarise([one["decode_s"] for one in each]) for maker, each in rounds.items()}
    yield from _pair("decode", decodes, gate, rounds)


def prepare_video(folder: Path) -> None:
    """Text, noise, settings and the weights in diffusers' form: everything that both sides get."""
    folder.mkdir()
    config = GenerateConfig.from_card(load_card(None), prompt=PROMPT, seed=7)
    text = load(device="cpu", prompt_cache=False).embed(config).positive
    np.savez(
        folder / INPUTS,
        prompt_embeds=text.prompt_embeds.numpy(),
        prompt_mask=text.prompt_mask.numpy(),
        pooled=text.pooled_prompt_embeds.numpy(),
        noise=initial_latents(config).numpy(),
    )
    (folder / SETTINGS).write_text(json.dumps({name: getattr(config, name) for name in GIVEN}))
    write_diffusers_tree(demo_root(), folder / DIFFUSERS)


def _video(maker: str, folder: Path) -> dict[str, Any]:
    threads = str(torch.get_num_threads())
    command = [sys.executable, "-W", "ignore", "-m", "hvlite.benchmarks.peer_video", maker, str(folder)]
    ended = subprocess.run([*command, "--threads", threads], capture_output=True, text=True)
    if ended.returncode:
        last = (ended.stderr.strip().splitlines() or ["it failed"])[-1]
        raise HvliteError(f"{maker} made no video: {last}", hint="leave peers out, or install another version of it")
    found: dict[str, Any] = json.loads(ended.stdout.splitlines()[-1])
    return found


def _gate(folder: Path) -> str:
    """The two sides agree."""
    ours, theirs = (np.load(folder / f"{maker}.npz")["latents"].astype(np.float64) for maker in MAKERS)
    error = float(np.linalg.norm(ours - theirs) / np.linalg.norm(theirs))
    return check_gate(error < LATENTS_TOLERANCE, f"final latents of both equal within {LATENTS_TOLERANCE:g}")


def _kept(rounds: list[dict[str, Any]]) -> list[float]:
    """The median step of each round; the first step of one also warms up."""
    return [median(one["steps_s"][1:]) for one in rounds]


def _pair(
    what: str, times: dict[str, Seconds], gate: str, rounds: dict[str, list[dict[str, Any]]] | None = None
) -> Iterator[Result]:
    """A result for each side, with its time and its memory over hvlite's."""
    peaks = {maker: min(one["peak_rss_bytes"] for one in each) for maker, each in (rounds or {}).items()}
    for maker in MAKERS:
        values: dict[str, Plain] = {"time_to_hvlite_ratio": times[maker].median / times["hvlite"].median}
        if peaks:
            values["memory_to_hvlite_ratio"] = peaks[maker] / peaks["hvlite"]
        yield Result(
            part=PART,
            case=f"shipped model, {what}: {maker}",
            gate=gate,
            seconds=times[maker],
            peaks=Peaks(rss_bytes=peaks.get(maker)),
            values=values,
            settings={"threads": torch.get_num_threads()},
        )
