"""Guidance distillation: one forward at guidance w does what classifier-free guidance w needs two for.

`python -m hvlite.demo.distil`. The student starts as the teacher; its text encoders stay as they are. Target:
u + w (c - u) from the teacher at guidance 1, with and without the caption (Meng et al., arXiv 2210.03142).
"""

from __future__ import annotations

import argparse
import random
import time
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor

from . import parallel
from .batches import Batch, Batches
from .model import DemoModel, noisy
from .train_transformer import SHIFTS, draw_sigma

STRONGEST = 8.0


def draw_guidance(batch: int) -> Tensor:
    """Guidance scales, uniform from 1 to the strongest, an eighth of them exactly 1: [B]."""
    scale = 1 + (STRONGEST - 1) * torch.rand(batch)
    return torch.where(torch.rand(batch) < 0.125, torch.ones(()), scale)


def loss_of(student: DemoModel, teacher: DemoModel, batch: Batch, empty: tuple[Tensor, Tensor], shift: float) -> Tensor:
    """Squared distance to the teacher's guided velocity; strong guidance has large targets and counts less."""
    count = len(batch.latents)
    sigma, scale = draw_sigma(count, shift), draw_guidance(count)
    x = noisy(batch.latents, sigma, torch.randn_like(batch.latents))
    with torch.no_grad():
        text = teacher.text(batch.llm_ids, batch.clip_ids)
        none = (empty[0].expand(count, -1, -1), empty[1].expand(count, -1))
        with_caption = teacher(x, sigma, torch.ones(count), text)
        without = teacher(x, sigma, torch.ones(count), none)
        target = without + scale.view(-1, 1, 1, 1, 1) * (with_caption - without)
    error = (student(x, sigma, scale, text) - target).square().mean(dim=(1, 2, 3, 4))
    return (error / (1 + 0.15 * (scale - 1).square())).mean()


def worker(
    rank: int,
    start: Path,
    latents: list[Path],
    statistics: Path,
    tokenizers: Path,
    out: Path,
    minutes: float,
    lr: float,
) -> None:
    """One process of the run."""
    teacher, student = DemoModel(), DemoModel()
    for model in (teacher, student):
        model.load_state_dict(torch.load(start, weights_only=True))
        model.llm.requires_grad_(False)
        model.clip.requires_grad_(False)
    torch.manual_seed(200 + rank)
    mean, std = torch.load(statistics, weights_only=True)
    batches = Batches(latents, mean, std, tokenizers, random.Random(200 + rank))
    with torch.no_grad():
        llm, clip = batches.llm.encode("").ids, batches.clip.encode("").ids
        empty = teacher.text(torch.tensor([llm]), torch.tensor([clip]))
    optimiser = student.optimiser(lr, lr)
    dist.barrier()
    began, progress, step, running = time.monotonic(), 0.0, 0, 1.0
    while progress < 1:
        total = 0.0
        for shift in SHIFTS:
            loss = loss_of(student, teacher, batches.draw(8, empty=0.06), empty, shift) / len(SHIFTS)
            loss.backward()
            total += loss.item()
        seen, clock = parallel.average(optimiser.params, total, time.monotonic() - began)
        progress = clock / (60 * minutes)
        optimiser.step(min(1.0, progress / 0.05) * max(0.0, 1 - progress))
        running += 0.05 * (seen - running)
        step += 1
        if rank == 0 and (step % 50 == 0 or progress >= 1):
            print(f"step {step} {clock:.0f} s loss {running:.4f}", flush=True)
            torch.save(student.state_dict(), out / "student.pt")


def main() -> None:
    """Parse the arguments and run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--start", type=Path, required=True, help="the teacher, by hvlite.demo.train_transformer")
    parser.add_argument("--latents", type=Path, nargs="+", required=True)
    parser.add_argument("--statistics", type=Path, required=True)
    parser.add_argument("--tokenizers", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=6)
    parser.add_argument("--lr", type=float, default=8e-4)
    parser.add_argument("--ranks", type=int, default=2)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    parallel.launch(
        worker, args.ranks, args.start, args.latents, args.statistics, args.tokenizers, args.out, args.minutes, args.lr
    )


if __name__ == "__main__":
    main()
