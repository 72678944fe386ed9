"""Many videos in one process: does memory grow, do files or threads stay behind?

    python -m hvlite.benchmarks.soak --model FOLDER --jobs 500 --out benchmarks/results/soak.json

A job is a whole run as `hvlite generate` makes it: the model opened, the prompt encoded, a checkpoint a step, an mp4
that is then deleted. Tiers and classifier-free guidance change from job to job. The slope is that of a line through the
resident memory after each job, the first ones left out (allocator, libraries). A plot goes beside.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil  # type: ignore[import-untyped]  # it ships no types
import torch

from ..charts.chart import Chart, Series
from ..charts.drawing import draw_chart
from ..files import write_atomic
from ..lite.config import GenerateConfig, GenerateRequest
from ..lite.events import ignore
from ..lite.interrupt import StopFlag
from ..lite.job import run_generate

KIB, MIB = 1 << 10, 1 << 20
TIERS = ("resident", "host", "disk")
LIMIT_KIB = 16.0  # a job


@dataclass(frozen=True)
class Left:
    """What a process holds between two jobs."""

    rss_bytes: int
    open_files: int
    threads: int


def soak(model: Path, jobs: int, work: Path) -> list[Left]:
    """Run the jobs one after the other; what is left after each."""
    process = psutil.Process()
    found = []
    for index in range(jobs):
        output = work / f"{index}.mp4"
        run_generate(_request(model, output, index), ignore, StopFlag())
        output.unlink()
        assert not any(work.iterdir()), f"job {index} left {sorted(path.name for path in work.iterdir())}"
        found.append(Left(process.memory_info().rss, len(os.listdir("/proc/self/fd")), threading.active_count()))
    return found


def _request(model: Path, output: Path, index: int) -> GenerateRequest:
    config = GenerateConfig(
        prompt=f"a fox on the ice, number {index % 7}",
        height=32,
        width=48,
        frames=5,
        steps=2,
        guidance_scale=6.0,
        flow_shift=7.0,
        seed=index,
        fps=8,
        cfg_scale=3.0 if index % 2 else 1.0,
    )
    return GenerateRequest(config=config, output=output, model=model, tier=TIERS[index % 3], prompt_cache=index % 5 > 0)


def slope_kib(found: list[Left], warm_up: int) -> float:
    """KiB a job: least squares over the jobs after the warm-up."""
    rss = np.array([each.rss_bytes for each in found[warm_up:]], dtype=float) / KIB
    return float(np.polyfit(np.arange(len(rss)), rss, 1)[0])


def summary(found: list[Left], warm_up: int) -> dict[str, Any]:
    """Plain values for a results file."""
    steady = found[warm_up:]
    return {
        "benchmark": "soak",
        "jobs": len(found),
        "warm_up_jobs": warm_up,
        "slope_kib_a_job": round(slope_kib(found, warm_up), 3),
        "limit_kib_a_job": LIMIT_KIB,
        "rss_bytes": {"after_warm_up": steady[0].rss_bytes, "last": steady[-1].rss_bytes},
        "open_files": {"after_warm_up": steady[0].open_files, "last": steady[-1].open_files},
        "threads": {"after_warm_up": steady[0].threads, "last": steady[-1].threads},
        "torch": torch.__version__,
        "device": "cpu",
        "rss_kib": [each.rss_bytes // KIB for each in found],
    }


def chart_of(found: list[Left], warm_up: int) -> Chart:
    """Resident memory over jobs, and the line whose slope is reported."""
    points = tuple((float(index), each.rss_bytes / MIB) for index, each in enumerate(found))
    slope, steady = slope_kib(found, warm_up), points[warm_up:]
    middle = float(np.mean([y for _, y in steady]))
    rise = slope * KIB / MIB * (len(steady) - 1) / 2
    line = ((steady[0][0], middle - rise), (steady[-1][0], middle + rise))
    return Chart(
        title="Resident memory after each job",
        note=f"{len(found)} jobs, torch {torch.__version__}, CPU",
        x_name="job",
        y_name="resident memory (MiB)",
        series=(
            Series(name="resident memory", points=points, shape="line"),
            Series(name=f"fit after {warm_up} jobs: {slope:.2f} KiB a job", points=line, shape="dashes"),
        ),
    )


def main() -> None:
    """Parse the arguments and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, help="a converted folder: hvlite quantize")
    parser.add_argument("--jobs", type=int, default=500)
    parser.add_argument("--warm-up", type=int, default=50)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        found = soak(args.model, args.jobs, Path(folder))
    write_atomic(args.out, json.dumps(summary(found, args.warm_up)).encode() + b"\n")
    write_atomic(args.out.with_suffix(".png"), draw_chart(chart_of(found, args.warm_up)))
    print(f"{slope_kib(found, args.warm_up):.2f} KiB a job over {args.jobs - args.warm_up} jobs")


if __name__ == "__main__":
    main()
