"""Train the demo model's VAE on rendered scenes: `python -m hvlite.demo.train_vae --out FOLDER --minutes 45`.

The training triples only; crops around the shape first, whole videos towards the end. The learning rate follows the
clock down to zero, so a run of any length ends annealed.
"""

from __future__ import annotations

import argparse
import math
import random
import time
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn

from ..lite.models.vae import AutoencoderKLCausal3D, CausalConv3d, Downsample, ResnetBlock
from ..quantize.architecture import VaeConfig
from . import data, parallel
from .optim import Optimiser

CONFIG = VaeConfig(block_out_channels=(16, 16, 48, 64), layers_per_block=1, norm_num_groups=2)
SIZES = ((80, 80), (80, 80), (64, 96), (96, 64), (64, 64), (96, 96))
# share of the scenes with any position and radius, so that the VAE serves more than the lattice of cells
ANYWHERE = 0.3
# of each latent channel's spread: the decoder learns to forgive what the transformer gets slightly wrong
LATENT_NOISE = 0.12
Crop = tuple[float, int, int, int, int]
# (share, batch a rank, frames, height, width) of the crops; 0 means the whole video. Never a batch of one: torch then
# takes its slow path for small 3D convolutions, 6 times slower.
EARLY: tuple[Crop, ...] = ((0.2, 4, 5, 40, 40), (0.2, 16, 1, 40, 40), (0.6, 2, 9, 40, 40))
MIDDLE: tuple[Crop, ...] = ((0.1, 4, 5, 40, 40), (0.5, 2, 9, 48, 48), (0.4, 2, 17, 40, 40))
LATE: tuple[Crop, ...] = (
    (0.06, 8, 1, 48, 48),
    (0.2, 2, 9, 0, 0),
    (0.35, 2, 17, 48, 48),
    (0.31, 2, 17, 0, 0),
    (0.08, 2, 33, 48, 48),
)


def initialise(vae: AutoencoderKLCausal3D) -> None:
    """Start as a low-pass filter with silent residual branches: from the default init this VAE learns very slowly."""
    for module in vae.modules():
        if isinstance(module, CausalConv3d):
            _point_kernel(module.conv, average=False)
    for module in vae.modules():
        if isinstance(module, Downsample):
            _point_kernel(module.conv.conv, average=True)
        elif isinstance(module, ResnetBlock):
            nn.init.kaiming_normal_(module.conv1.conv.weight)
            nn.init.zeros_(module.conv2.conv.weight)
    nn.init.orthogonal_(vae.quant_conv.weight)
    nn.init.orthogonal_(vae.post_quant_conv.weight)


def _point_kernel(conv: nn.Conv3d, average: bool) -> None:
    nn.init.kaiming_normal_(conv.weight)
    with torch.no_grad():
        conv.weight.mul_(0.15)
        matrix = nn.init.orthogonal_(torch.empty(conv.out_channels, conv.in_channels))
        if average:
            conv.weight.add_(matrix[:, :, None, None, None] / conv.weight[0, 0].numel())
        else:
            middle = conv.kernel_size[1] // 2
            conv.weight[:, :, -1, middle, middle].add_(matrix)
        assert conv.bias is not None
        conv.bias.zero_()


def sample_batch(rng: random.Random, crop: Crop, size: tuple[int, int], stars: float = 0.0) -> Tensor:
    """Rendered windows near the shape, or whole videos where height is 0. Returns [B, 3, F, H, W].

    `stars` is the chance to draw again, and again, what is no star: the shape that the VAE learns last.
    """
    _, batch, frames, height, width = crop
    scenes = [_scene(rng, stars) for _ in range(batch)]
    return torch.stack([_window(rng, scene, frames, height, width, size) for scene in scenes])


def _scene(rng: random.Random, stars: float) -> data.Scene:
    placement: data.Placement = "anywhere" if rng.random() < ANYWHERE else "cells"
    scene = data.sample_scene(rng, placement=placement)
    while scene.shape != "star" and rng.random() < stars:
        scene = data.sample_scene(rng, placement=placement)
    return scene


def _window(
    rng: random.Random, scene: data.Scene, frames: int, height: int, width: int, size: tuple[int, int]
) -> Tensor:
    if not height:
        return data.render(scene, frames, *size)
    total = max(frames, 17)
    start = rng.randrange(total - frames + 1)
    x, y, _ = data.path(scene, total, *size)[start + rng.randrange(frames)]
    top = _near(rng, y - height / 2, size[0] - height)
    left = _near(rng, x - width / 2, size[1] - width)
    return data.render(scene, total, *size, window=(start, frames, top, height, left, width))


def _near(rng: random.Random, centre: float, most: int) -> int:
    return min(max(round(centre + rng.uniform(-18, 18)), 0), most)


def loss_of(vae: AutoencoderKLCausal3D, video: Tensor, kl_weight: float) -> Tensor:
    """L1, squared error, the error of the differences along all axes, and a light pull of the latents to N(0, 1)."""
    mean, log_var = vae.encode(video).chunk(2, dim=1)
    log_var = log_var.clamp(-30, 20)
    spread = mean.detach().std(dim=(0, 2, 3, 4), keepdim=True)
    noise = torch.randn_like(mean) * (log_var.exp() + (LATENT_NOISE * spread).square()).sqrt()
    error = vae.decode(mean + noise) - video
    edges = sum((error.diff(dim=axis).abs().mean() for axis in (2, 3, 4) if error.shape[axis] > 1), torch.zeros(()))
    kl = 0.5 * (mean.square() + log_var.exp() - 1 - log_var).mean()
    return error.abs().mean() + error.square().mean() + 0.5 * edges + kl_weight * kl


@torch.no_grad()
def validate(vae: AutoencoderKLCausal3D, videos: Tensor) -> float:
    """Mean PSNR in dB of the reconstructed videos [B, 3, F, H, W], in the [0, 1] range."""
    mean = vae.encode(videos).chunk(2, dim=1)[0]
    error = (vae.decode(mean).clamp(-1, 1) - videos) / 2
    return float((-10 * error.square().mean(dim=(1, 2, 3, 4)).log10()).mean())


def learning_rate(progress: float) -> float:
    """A short warm-up, then a cosine to zero, as a share of the peak."""
    return min(1.0, progress / 0.01) * 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))


def worker(
    rank: int, out: Path, minutes: float, lr: float, start: Path | None, decoder_only: bool, stars: float
) -> None:
    """One process of the run."""
    torch.manual_seed(0)
    vae = AutoencoderKLCausal3D(CONFIG)
    initialise(vae)
    if start is not None:
        vae.load_state_dict(torch.load(start, weights_only=True))
    vae = vae.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
    for part in (vae.encoder, vae.quant_conv):
        part.requires_grad_(not decoder_only)
    edge = {id(p) for m in (vae.encoder.conv_in, vae.decoder.conv_out, vae.quant_conv) for p in m.parameters()}
    trained = [p for p in vae.parameters() if p.requires_grad]
    matrices = [p for p in trained if p.ndim > 1 and id(p) not in edge]
    others = [p for p in trained if p.ndim == 1 or id(p) in edge]
    optimiser = Optimiser(matrices, others, lr, lr)
    validation = random.Random(99)
    videos = torch.stack([data.render(data.sample_scene(validation, held_out=True), 17, 80, 80) for _ in range(8)])
    shared, own = random.Random(7 if start is None else 8), random.Random(1000 + rank)
    torch.manual_seed(rank)
    began, progress, step, running = time.monotonic(), 0.0, 0, 1.0
    while progress < 1:
        table = EARLY if progress < 0.08 and start is None else MIDDLE if progress < 0.7 else LATE
        crop = shared.choices(table, [row[0] for row in table])[0]
        video = sample_batch(own, crop, shared.choice(SIZES), stars)
        loss = loss_of(vae, video.contiguous(memory_format=torch.channels_last_3d), kl_weight=5e-4)
        loss.backward()
        seen, clock = parallel.average(optimiser.params, loss.item(), time.monotonic() - began)
        progress = clock / (60 * minutes)
        optimiser.step(learning_rate(progress))
        running += 0.02 * (seen - running)
        step += 1
        if step % 400 == 0 or progress >= 1:
            dist.barrier()
            if rank == 0:
                psnr = validate(vae, videos)
                print(f"step {step} {clock:.0f} s loss {running:.4f} psnr {psnr:.2f}", flush=True)
                torch.save({k: v.contiguous() for k, v in vae.state_dict().items()}, out / "vae.pt")


def main() -> None:
    """Parse the arguments and run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=45)
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--start", type=Path, help="weights to go on from")
    parser.add_argument("--decoder-only", action="store_true", help="keep the latents as they are")
    parser.add_argument("--stars", type=float, default=0.0, help="chance to draw again what is no star")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    options = (args.start, args.decoder_only, args.stars)
    parallel.launch(worker, args.ranks, args.out, args.minutes, args.lr, *options)


if __name__ == "__main__":
    main()
