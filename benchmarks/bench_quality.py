"""What each way to run costs in quality, on the model that ships: schemes, arithmetic, attention, tiers, tiles.

    hvlite bench quality --minutes 90 --output benchmarks/results/quality.json

The transformer of every configuration is compared with the unquantized one step by step, on the latents of its run, so
that every step sees the same input; then both runs are left to themselves and their videos compared. These drift apart
without being worse, so PSNR is reported, not judged: the figures by step and the shares of 128 held-out prompts whose
video shows what was asked for decide. Everything is what `load` gives a user; on a CPU the kernels' references run.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from torch import Tensor

from ..kernels.attention_variant import VARIANTS
from ..lite.arrangement import DecodeArrangement
from ..lite.card import demo_root
from ..lite.config import GenerateConfig
from ..lite.guidance import Conditioning, schedule_of
from ..lite.pipeline import Pipeline, load
from ..lite.sampling import initial_latents
from ..lite.tiling import TileSpec
from .metrics import psnr_db
from .quality import PROMPTS, convert_all
from .results import Plain, Result, check_gate
from .suite import BenchOptions
from .video_compare import compare_frames

PART = "quality"
HELD_OUT = 128
TRANSFORMERS = ("fp8", "fp8:mse", "int8", "int8:mse", "mixed")
TEXT_ENCODERS = ("nf4", "int4", "int8")
LINEAR = ("dequantize", "w8a8")
LEAST_COSINE = 0.9  # below that something is broken, not quantized


@dataclass(frozen=True)
class Configuration:
    """A way to run: a folder (None: as it ships), and what `load` is told."""

    name: str
    folder: Path | None = None
    options: dict[str, Any] = field(default_factory=dict)

    def open(self) -> Pipeline:
        """The pipeline, its parts staying in memory."""
        return load(self.folder, device="cpu", keep_loaded=True, prompt_cache=False, **self.options)


@dataclass(frozen=True)
class Trajectory:
    """One video of the unquantized model: what its transformer saw and said at every step."""

    config: GenerateConfig
    conditioning: Conditioning
    latents: tuple[Tensor, ...]
    frames: Tensor


def run(options: BenchOptions) -> Iterator[Result]:
    """Every configuration."""
    model = demo_root()
    folders = convert_all(model, options.work, "transformer", TRANSFORMERS)
    texts = convert_all(model, options.work, "text_encoder", TEXT_ENCODERS)
    yield from run_configurations(options, configurations(folders, texts), PROMPTS, HELD_OUT)


def configurations(folders: dict[str, Path], texts: dict[str, Path]) -> list[Configuration]:
    """The unquantized model first, then one thing changed at a time: what people choose before what is compared."""
    schemes = {
        scheme: [Configuration(f"{scheme}, {each}", folder, {"linear": each}) for each in reversed(LINEAR)]
        for scheme, folder in folders.items()
    }
    found = [Configuration("as it ships"), *schemes.pop("fp8"), *schemes.pop("int8")]
    found += [Configuration(f"{scheme} text encoder", folder) for scheme, folder in texts.items()]
    found += attention_configurations()
    found += [Configuration(f"{tier} tier, fp8", folders["fp8"], {"tier": tier}) for tier in ("host", "disk")]
    return found + [each for rest in schemes.values() for each in rest]


def attention_configurations() -> list[Configuration]:
    """Each form of our attention in 8 bits; on a CPU its reference."""
    names = [name for name, variant in VARIANTS.items() if variant.is_quantized]
    return [Configuration(f"attention {name}", None, {"attention": f"hvlite:{name}"}) for name in names]


def run_configurations(
    options: BenchOptions, chosen: Sequence[Configuration], prompts: Sequence[str], held_out: int
) -> Iterator[Result]:
    """The same with configurations and numbers of prompts given; the first one is what the others are compared with."""
    reference = chosen[0].open()
    trajectories = [trajectory_of(reference, prompt, seed) for seed, prompt in enumerate(prompts)]
    yield from _tiles(reference, trajectories[0])
    for each in chosen:
        if options.seconds_left <= 0:
            options.skip(PART, f"{each.name}: no time was left")
            continue
        pipeline = each.open()
        values = {**steps_against(pipeline, trajectories), **videos_against(pipeline, trajectories)}
        gate = check_gate(_number(values["least_cosine"]) > LEAST_COSINE, f"every step's cosine above {LEAST_COSINE}")
        settings: dict[str, Plain] = {"prompts": len(prompts), "held_out_prompts": held_out}
        shares = accuracies(pipeline, held_out)
        yield Result(part=PART, case=each.name, gate=gate, values=values | shares, settings=settings)


def trajectory_of(pipeline: Pipeline, prompt: str, seed: int) -> Trajectory:
    """A run of the unquantized model."""
    config = GenerateConfig.from_card(pipeline.card, prompt=prompt, seed=1000 + seed)
    conditioning, start = pipeline.embed(config), initial_latents(config)
    after = [latents for _, latents in pipeline.denoise(config, conditioning, start)]
    frames = torch.cat(list(pipeline.decode(after[-1])))
    return Trajectory(config, conditioning, (start, *after), frames)


def steps_against(pipeline: Pipeline, trajectories: Sequence[Trajectory]) -> dict[str, Plain]:
    """The prediction at every step, on the latents of the unquantized run: least cosine, mean relative error."""
    cosines: list[float] = []
    errors: list[float] = []
    for each in trajectories:
        conditioning = pipeline.embed(each.config)
        sigmas = schedule_of(each.config).sigmas
        for step, (before, after) in enumerate(zip(each.latents, each.latents[1:], strict=False)):
            width = float(sigmas[step + 1] - sigmas[step])
            _, moved = next(pipeline.denoise(each.config, conditioning, before, start=step))
            found, wanted = (moved - before) / width, (after - before) / width
            cosines.append(_cosine(found, wanted))
            errors.append(float((found - wanted).norm() / wanted.norm()))
    return {"least_cosine": min(cosines), "mean_relative_error": mean(errors), "worst_relative_error": max(errors)}


def videos_against(pipeline: Pipeline, trajectories: Sequence[Trajectory]) -> dict[str, Plain]:
    """Runs left to themselves: final latents and videos."""
    cosines, videos = [], []
    for each in trajectories:
        conditioning = pipeline.embed(each.config)
        *_, (_, latents) = pipeline.denoise(each.config, conditioning, each.latents[0])
        frames = torch.cat(list(pipeline.decode(latents)))
        cosines.append(_cosine(latents, each.latents[-1]))
        videos.append(compare_frames(each.frames, frames))
    psnrs = [video.psnr_db for video in videos if video.psnr_db is not None]
    return {
        "final_latents_cosine": min(cosines),
        "psnr_db": mean(psnrs) if psnrs else None,
        "ssim": mean(video.ssim for video in videos),
        "added_flicker": mean(video.flicker_between for video in videos),
    }


def accuracies(pipeline: Pipeline, count: int) -> dict[str, Plain]:
    """Shares of held-out prompts whose video shows the colour, the motion and the shape asked for."""
    from ..demo.evaluate import cases, judge

    if not count:
        return {}
    outcomes = [
        judge(case, pipeline.generate(case.prompt, seed=1000 + case.index).frames, 0.0) for case in cases(count)
    ]
    return {f"{name}_share": mean(getattr(each, name) for each in outcomes) for name in ("colour", "motion", "shape")}


def _tiles(pipeline: Pipeline, trajectory: Trajectory) -> Iterator[Result]:
    """The decode in other ways than the default one: the same latents, so the frames should hardly differ."""
    latents = trajectory.latents[-1]
    whole, official = (pipeline.arrange_decode(latents, tiled=tiled).tile for tiled in (False, True))
    small = TileSpec(height=8, width=8, frames=official.frames)
    ways = {
        "decode untiled": (DecodeArrangement(whole, False), 2),
        "decode in chunks of time": (DecodeArrangement(official, True), 2),
        "decode in small tiles": (DecodeArrangement(small, False), None),
    }
    for name, (arrangement, limit) in ways.items():
        frames = torch.cat(list(pipeline.decode(latents, arrangement)))
        psnr = psnr_db(trajectory.frames, frames)
        largest = int((frames.int() - trajectory.frames.int()).abs().max())
        values: dict[str, Plain] = {"largest_difference": largest, "psnr_db": psnr if psnr < 1000 else None}
        gate = (
            "none: small tiles blend elsewhere"
            if limit is None
            else check_gate(largest <= limit, f"within {limit}/255")
        )
        yield Result(part=PART, case=name, gate=gate, values=values)


def _cosine(one: Tensor, other: Tensor) -> float:
    return float(torch.nn.functional.cosine_similarity(one.flatten().double(), other.flatten().double(), dim=0))


def _number(value: Plain) -> float:
    assert isinstance(value, int | float)
    return float(value)
