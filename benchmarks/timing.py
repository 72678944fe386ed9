"""How long work takes: after a warm-up, several times, the device waited for."""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median

import torch

from .results import Seconds


def time_work(
    work: Callable[[], object], device: torch.device, *, repeats: int = 5, warm_up: int = 1, until: float | None = None
) -> Seconds:
    """Times of `work`, at least one; fewer than `repeats` where the next would end after `until` (time.monotonic())."""
    for _ in range(warm_up):
        work()
    times: list[float] = []
    while len(times) < repeats and (not times or until is None or time.monotonic() + median(times) < until):
        times.append(seconds_of(work, device))
    return summarise(times)


def seconds_of(work: Callable[[], object], device: torch.device) -> float:
    """One time, from an idle device to an idle device."""
    wait_for(device)
    began = time.perf_counter()
    work()
    wait_for(device)
    return time.perf_counter() - began


def wait_for(device: torch.device) -> None:
    """Until the device has nothing to do."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def summarise(times: list[float]) -> Seconds:
    """Median and spread of times."""
    return Seconds(median=median(times), least=min(times), most=max(times), runs=len(times))
