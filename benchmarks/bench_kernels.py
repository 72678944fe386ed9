"""Every operation against what one would use without us: first that it is right, then how fast it is.

On a card, shares are of the copy bandwidth measured in the same run. On a CPU the operations are their references at a
small size: it shows that the cases run, no speed of a kernel.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch

from ..errors import MemoryLimitError
from ..lite.device import memory_errors
from .kernel_blocks import PART, block_results
from .kernel_cases import CASES, CPU_SIZE, CUDA_SIZE, CaseMaker, KernelCase, Work
from .results import Plain, Result, Seconds, check_gate
from .suite import BenchOptions
from .timing import time_work

COPIED_BYTES = {"cuda": 4 << 30, "cpu": 16 << 20}
CALLS = {"cuda": 10, "cpu": 1}  # in one measured time: a kernel of 0.2 ms is short beside waiting for the device


def run(options: BenchOptions) -> Iterator[Result]:
    """Copy bandwidth, every case, then whole blocks, as far as the time goes."""
    copy = copy_bandwidth(options)
    yield Result(part=PART, case="copy", gate="none needed", values={"moved_bytes_per_s": copy})
    for make in CASES:
        try:
            yield from _measure_all(options, make, copy)
        except MemoryLimitError as error:
            options.skip(PART, error.message)
    yield from block_results(options)


def _measure_all(options: BenchOptions, make: CaseMaker, copy: float) -> Iterator[Result]:
    size = CUDA_SIZE if options.device.type == "cuda" else CPU_SIZE
    with memory_errors(f"measuring {getattr(make, '__name__', 'cases')}"):
        for case in make(options.device, size):
            if options.seconds_left <= 0:
                options.skip(PART, f"{case.name}: no time was left")
            else:
                yield _measure(options, case, copy)


def copy_bandwidth(options: BenchOptions) -> float:
    """Bytes read and written a second by a copy within the device's memory."""
    source = torch.empty(COPIED_BYTES[options.device.type] // 2, dtype=torch.uint8, device=options.device)
    target = torch.empty_like(source)
    return 2 * source.numel() / _time(options, lambda: target.copy_(source)).median


def _measure(options: BenchOptions, case: KernelCase, copy: float) -> Result:
    error = case.error()
    gate = check_gate(error <= case.limit, f"{case.name}: relative error {error:.2g}, at most {case.limit}")
    seconds = _time(options, case.work)
    values: dict[str, Plain] = {}
    if case.moved_bytes:
        rate = case.moved_bytes / seconds.median
        values |= {"moved_bytes_per_s": rate, "copy_share": rate / copy}
    if case.flops:
        values["rate_tops"] = case.flops / seconds.median / 1e12
    for name, work in case.baselines.items():
        values[f"{name}_to_ours_ratio"] = _time(options, work).median / seconds.median
    return Result(part=PART, case=case.name, gate=gate, seconds=seconds, values=values)


@torch.no_grad()
def _time(options: BenchOptions, work: Work) -> Seconds:
    """Median and spread of one call."""
    calls = CALLS[options.device.type]

    def several() -> None:
        for _ in range(calls):
            work()

    found = time_work(several, options.device, until=options.until)
    return Seconds(median=found.median / calls, least=found.least / calls, most=found.most / calls, runs=found.runs)
