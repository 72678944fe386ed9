"""What attention in 8 bits costs the model that ships: every step against exact attention, and what videos show.

    python -m hvlite.benchmarks.quality_attention [--prompts 128] [--out FILE]

A part of `hvlite bench quality`, by itself because it takes minutes instead of an hour.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import torch

from .bench_quality import Configuration, accuracies, attention_configurations, steps_against, trajectory_of
from .quality import PROMPTS
from .results import Plain
from .tables import markdown

LEAST_COSINE = 0.999


def measure(prompts: int) -> list[dict[str, Plain]]:
    """A row for exact attention and for each variant; `prompts` 0 leaves out what videos show."""
    exact = Configuration("exact", None, {"attention": "sdpa"})
    trajectories = [trajectory_of(exact.open(), prompt, seed) for seed, prompt in enumerate(PROMPTS)]
    rows = []
    for each in (exact, *attention_configurations()):
        pipeline = each.open()
        shares = accuracies(pipeline, prompts) if prompts else {}
        rows.append({"attention": each.name, **steps_against(pipeline, trajectories), **shares})
    return rows


def main() -> int:
    """Command line; exit code 1 where a step is further off than allowed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--prompts", type=int, default=0, help="held-out prompts whose videos are judged")
    parser.add_argument("--out", type=Path, default=None, help="write the figures here, as JSON")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    rows = measure(chosen.prompts)
    cells = [[f"{value:.6f}" if isinstance(value, float) else f"{value}" for value in row.values()] for row in rows]
    sys.stdout.write("\n".join(markdown([list(rows[0]), *cells])) + "\n")
    if chosen.out:
        chosen.out.write_text(json.dumps(rows, indent=1) + "\n")
    return int(any(float(str(row["least_cosine"])) < LEAST_COSINE for row in rows))


if __name__ == "__main__":
    sys.exit(main())
