"""Render training scenes and encode them: `python -m hvlite.demo.encode --vae vae.pt --out FOLDER --videos 5000`.

Writes one latents-SEED-RANK.pt a process: for each canvas (frames, height, width) the scenes and their latents
(unnormalised, fp16); and statistics.pt, the latents' mean and spread in each channel.
"""

from __future__ import annotations

import argparse
import random
from collections import Counter
from dataclasses import astuple
from pathlib import Path

import torch
from torch import Tensor

from ..lite.models.vae import AutoencoderKLCausal3D
from . import data, parallel
from .train_vae import CONFIG

Canvas = tuple[int, int, int]
SHARES: dict[Canvas, float] = {
    (17, 80, 80): 0.70,
    (17, 64, 96): 0.06,
    (17, 96, 64): 0.06,
    (17, 64, 64): 0.03,
    (17, 96, 96): 0.03,
    (9, 80, 80): 0.03,
    (13, 80, 80): 0.03,
    (33, 80, 80): 0.03,
    (1, 80, 80): 0.03,
}
BATCH = 4


@torch.no_grad()
def encode_scenes(vae: AutoencoderKLCausal3D, scenes: list[data.Scene], canvas: Canvas) -> Tensor:
    """The posterior means of the rendered scenes: [N, 16, T, H, W] fp16."""
    out = []
    for start in range(0, len(scenes), BATCH):
        videos = torch.stack([data.render(scene, *canvas) for scene in scenes[start : start + BATCH]])
        videos = videos.contiguous(memory_format=torch.channels_last_3d)
        out.append(vae.encode(videos).chunk(2, dim=1)[0].half())
    return torch.cat(out)


def worker(rank: int, vae_path: Path, out: Path, videos: int, seed: int) -> None:
    """One process of the run."""
    vae = AutoencoderKLCausal3D(CONFIG)
    vae.load_state_dict(torch.load(vae_path, weights_only=True))
    vae = vae.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
    rng = random.Random(1000 * seed + rank)
    counts = Counter({canvas: max(BATCH, round(share * videos)) for canvas, share in SHARES.items()})
    parts = {}
    for canvas, count in counts.items():
        scenes = [data.sample_scene(rng) for _ in range(count)]
        parts[canvas] = ([astuple(scene) for scene in scenes], encode_scenes(vae, scenes, canvas))
    torch.save(parts, out / f"latents-{seed}-{rank}.pt")


def statistics(latents: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each of the 16 channels."""
    values = torch.cat([part.float().transpose(0, 1).flatten(1) for part in latents], dim=1)
    return values.mean(dim=1), values.std(dim=1)


@torch.no_grad()
def whiten(vae: AutoencoderKLCausal3D, mean: Tensor, std: Tensor) -> None:
    """Fold the statistics into the two 1x1 convolutions: scaled latents then have mean 0 and spread 1."""
    spread = std * vae.config.scaling_factor
    quant, post = vae.quant_conv, vae.post_quant_conv
    assert quant.bias is not None
    assert post.bias is not None
    channels = len(mean)
    # mean rows are shifted and scaled; the log variance of a scaled variable moves by twice the log of the scale
    quant.weight[:channels] /= spread.view(-1, 1, 1, 1, 1)
    quant.bias[:channels] = (quant.bias[:channels] - mean) / spread
    quant.bias[channels:] -= 2 * spread.log()
    post.bias += post.weight[:, :, 0, 0, 0] @ mean
    post.weight *= spread.view(1, -1, 1, 1, 1)


def main() -> None:
    """Parse the arguments and run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--vae", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--videos", type=int, default=5000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--ranks", type=int, default=2)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    parallel.launch(worker, args.ranks, args.vae, args.out, args.videos // args.ranks, args.seed)
    parts = [torch.load(args.out / f"latents-{args.seed}-{rank}.pt", weights_only=True) for rank in range(args.ranks)]
    torch.save(statistics([latents for part in parts for _, latents in part.values()]), args.out / "statistics.pt")


if __name__ == "__main__":
    main()
