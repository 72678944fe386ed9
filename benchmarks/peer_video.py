"""One video with given text, noise and weights, made by hvlite or by diffusers in a process of its own.

    python -m hvlite.benchmarks.peer_video hvlite|diffusers FOLDER

FOLDER: what peers.py prepared, and where latents and frames are left. Prints times and the peak of resident memory.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .watch import host_peak_bytes

INPUTS, SETTINGS, DIFFUSERS = "inputs.npz", "settings.json", "diffusers"


@dataclass
class Clock:
    """When each step ended."""

    steps: list[float]
    last: float

    @classmethod
    def start(cls) -> Clock:
        return cls([], time.perf_counter())

    def tick(self, *_: Any) -> dict[str, Any]:
        """A step ended; also what diffusers calls then, which takes a dictionary of changes."""
        now = time.perf_counter()
        self.steps.append(now - self.last)
        self.last = now
        return {}


@dataclass(frozen=True)
class Inputs:
    """What both get: text [1, L, D], its mask, the pooled text, noise, and the settings of the run."""

    prompt_embeds: Tensor
    prompt_mask: Tensor
    pooled: Tensor
    noise: Tensor
    settings: dict[str, Any]

    @classmethod
    def read(cls, folder: Path) -> Inputs:
        arrays = np.load(folder / INPUTS)
        tensors = {name: torch.from_numpy(arrays[name]) for name in ("prompt_embeds", "prompt_mask", "pooled", "noise")}
        return cls(**tensors, settings=json.loads((folder / SETTINGS).read_text()))


def hvlite_video(inputs: Inputs, folder: Path, clock: Clock) -> tuple[Tensor, Tensor, float]:
    """Latents, frames [F, H, W, 3] uint8, seconds of the decode."""
    from ..lite.config import GenerateConfig
    from ..lite.guidance import Conditioning
    from ..lite.pipeline import load
    from ..lite.text import PromptEmbeds
    from ..lite.video import frames_to_uint8

    pipeline = load(device="cpu")
    config = GenerateConfig.from_card(pipeline.card, prompt="given", **inputs.settings)
    text = Conditioning(PromptEmbeds(inputs.prompt_embeds, inputs.prompt_mask, inputs.pooled))
    latents = inputs.noise
    clock.last = time.perf_counter()
    for _, after in pipeline.denoise(config, text, inputs.noise):
        latents = after
        clock.tick()
    with torch.no_grad(), pipeline.parts.vae() as vae:
        began = time.perf_counter()  # the VAE is loaded, as that of the other side is
        chunks = vae.decode_chunks(latents / vae.config.scaling_factor, vae.official_tile)
        frames = torch.cat([frames_to_uint8(chunk) for chunk in chunks])
        return latents, frames, time.perf_counter() - began


def diffusers_video(inputs: Inputs, folder: Path, clock: Clock) -> tuple[Tensor, Tensor, float]:
    """The same through HunyuanVideoPipeline, as its documentation runs it, decoding in the official geometry."""
    diffusers: Any = import_module("diffusers")
    tree, settings = folder / DIFFUSERS, inputs.settings
    pipe = diffusers.HunyuanVideoPipeline(
        transformer=diffusers.HunyuanVideoTransformer3DModel.from_pretrained(tree / "transformer").eval(),
        vae=diffusers.AutoencoderKLHunyuanVideo.from_pretrained(tree / "vae").eval(),
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(shift=settings["flow_shift"]),
        **dict.fromkeys(("text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2")),
    )
    pipe.set_progress_bar_config(disable=True)
    # By default its VAE takes tiles of 16 frames: other pixels than the official code's, and more work than ours.
    pipe.vae.use_framewise_decoding = False
    clock.last = time.perf_counter()
    latents = pipe(
        prompt_embeds=inputs.prompt_embeds,
        pooled_prompt_embeds=inputs.pooled,
        prompt_attention_mask=inputs.prompt_mask,
        latents=inputs.noise.clone(),
        height=settings["height"],
        width=settings["width"],
        num_frames=settings["frames"],
        num_inference_steps=settings["steps"],
        guidance_scale=settings["guidance_scale"],
        output_type="latent",
        callback_on_step_end=clock.tick,
    ).frames
    began = time.perf_counter()
    with torch.no_grad():
        video = pipe.vae.decode(latents / pipe.vae.config.scaling_factor).sample
    frames = ((video[0].permute(1, 2, 3, 0) / 2 + 0.5).clamp(0, 1) * 255).round().to(torch.uint8)
    return latents, frames, time.perf_counter() - began


MAKERS: dict[str, Callable[[Inputs, Path, Clock], tuple[Tensor, Tensor, float]]] = {
    "hvlite": hvlite_video,
    "diffusers": diffusers_video,
}


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("maker", choices=MAKERS)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    clock, inputs = Clock.start(), Inputs.read(arguments.folder)
    latents, frames, decode_s = MAKERS[arguments.maker](inputs, arguments.folder, clock)
    peak = host_peak_bytes()
    np.savez(arguments.folder / f"{arguments.maker}.npz", latents=latents.numpy(), frames=frames.numpy())
    json.dump({"steps_s": clock.steps, "decode_s": decode_s, "peak_rss_bytes": peak}, sys.stdout)


if __name__ == "__main__":
    main()
