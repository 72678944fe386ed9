"""Train the demo's transformer and text encoders on encoded scenes: `python -m hvlite.demo.train_transformer`.

Flow matching: x = (1 - s) video + s noise, target noise - video. The learning rate follows the clock down to zero.
"""

from __future__ import annotations

import argparse
import math
import random
import time
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor

from . import parallel
from .batches import Batch, Batches
from .model import DemoModel, noisy

SHIFTS = (1.5, 5.0)
# the cells of the shape count more at first: most cells are flat background
SHAPE_WEIGHT = 2.0


def draw_sigma(batch: int, shift: float) -> Tensor:
    """Stratified over the batch, then shifted towards noise: [B] in 0..1."""
    even = (torch.randperm(batch) + torch.rand(batch)) / batch
    return shift * even / (1 + (shift - 1) * even)


def loss_of(model: DemoModel, batch: Batch, shift: float, shape_weight: float) -> Tensor:
    """Mean squared error of the velocity at guidance 1, the cells of the shape weighted by 1 + shape_weight."""
    count = len(batch.latents)
    sigma, noise = draw_sigma(count, shift), torch.randn_like(batch.latents)
    text = model.text(batch.llm_ids, batch.clip_ids)
    velocity = model(noisy(batch.latents, sigma, noise), sigma, torch.ones(count), text)
    weight = 1 + shape_weight * batch.shown
    error = (velocity - (noise - batch.latents)).square().mean(dim=1, keepdim=True)
    return (weight * error).sum() / weight.sum()


def learning_rate(progress: float) -> float:
    """A short warm-up, a plateau to two fifths, then a cosine to zero, as a share of the peak."""
    tail = max(0.0, (progress - 0.4) / 0.6)
    return min(1.0, progress / 0.02) * 0.5 * (1 + math.cos(math.pi * min(tail, 1.0)))


def worker(
    rank: int,
    latents: list[Path],
    statistics: Path,
    tokenizers: Path,
    out: Path,
    minutes: float,
    lr: float,
    start: Path | None,
) -> None:
    """One process of the run."""
    torch.manual_seed(0)
    model = DemoModel()
    model.initialise()
    if start is not None:
        model.load_state_dict(torch.load(start, weights_only=True))
    torch.manual_seed(100 + rank)
    mean, std = torch.load(statistics, weights_only=True)
    batches = Batches(latents, mean, std, tokenizers, random.Random(100 + rank))
    optimiser = model.optimiser(lr, lr)
    dist.barrier()
    began, progress, step, running = time.monotonic(), 0.0, 0, 1.0
    while progress < 1:
        total = 0.0
        for shift in SHIFTS:
            focus = SHAPE_WEIGHT * max(0.0, 1 - progress / 0.7)
            loss = loss_of(model, batches.draw(8), shift, focus) / len(SHIFTS)
            loss.backward()
            total += loss.item()
        seen, clock = parallel.average(optimiser.params, total, time.monotonic() - began)
        progress = clock / (60 * minutes)
        optimiser.step(learning_rate(progress))
        running += 0.02 * (seen - running)
        step += 1
        if rank == 0 and (step % 200 == 0 or progress >= 1):
            print(f"step {step} {clock:.0f} s loss {running:.4f}", flush=True)
            torch.save(model.state_dict(), out / "teacher.pt")


def main() -> None:
    """Parse the arguments and run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--latents", type=Path, nargs="+", required=True)
    parser.add_argument("--statistics", type=Path, required=True)
    parser.add_argument("--tokenizers", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=50)
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--start", type=Path, help="weights to go on from")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    files = (args.latents, args.statistics, args.tokenizers, args.out)
    parallel.launch(worker, args.ranks, *files, args.minutes, args.lr, args.start)


if __name__ == "__main__":
    main()
