"""`hvlite bench accuracy`: every form of attention against fp64."""

from __future__ import annotations

import json
import sys

from ..display import SafeLine
from ..errors import HvliteError

PART = "accuracy"


def bench_accuracy(device: str, threads: int | None, *, json_lines: bool) -> None:
    """Print the table. HvliteError where a form is beyond its limit."""
    import torch

    from ..benchmarks.bench_accuracy import rows_text, run
    from ..lite.device import probe_device

    if threads is not None:
        torch.set_num_threads(threads)
    rows = run(device=str(probe_device(device).device))
    SafeLine(sys.stdout).write(json.dumps(rows) if json_lines else rows_text(rows))
    if beyond := [f"{row['variant']} on {row['data']}" for row in rows if not row["passed"]]:
        raise HvliteError(f"{len(beyond)} of {len(rows)} beyond their limits: {beyond[0]}", hint="please report it")
