"""Watches a piece of work from a thread beside it: peak memory, and samples of memory, power and clock over time."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import psutil  # type: ignore[import-untyped]  # it ships no types
import torch

from .driver import GpuState, process_bytes, query_gpu
from .results import Peaks, Sample

INTERVAL_S = 0.05
DRIVER_INTERVAL_S = 1.0  # asking the driver starts a process
MOST_SAMPLES = 600
_CLEAR_REFS, _STATUS = Path("/proc/self/clear_refs"), Path("/proc/self/status")


class Watch:
    """with Watch(device) as watch: ...; then watch.peaks() and watch.samples. `stage` labels the samples from then."""

    def __init__(self, device: torch.device, stage: str = "", began: float | None = None) -> None:
        self.stage = stage
        self.samples: list[Sample] = []
        self._device = device
        self._began = time.monotonic() if began is None else began
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._work, name="hvlite bench watch", daemon=True)
        self._most: dict[str, int] = {}
        self._state, self._asked = GpuState(), 0.0
        self._process: int | None = None

    def __enter__(self) -> Watch:
        _reset_host_peak()
        if self._device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self._device)
        self._sample()
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._over.set()
        self._thread.join()
        self._sample()

    def peaks(self, pinned_bytes: int | None = None) -> Peaks:
        """The most there was of everything."""
        cuda = self._device.type == "cuda"
        return Peaks(
            allocated_bytes=torch.cuda.max_memory_allocated(self._device) if cuda else None,
            reserved_bytes=torch.cuda.max_memory_reserved(self._device) if cuda else None,
            process_bytes=self._most.get("process"),
            used_bytes=self._most.get("used"),
            rss_bytes=max(self._most.get("rss", 0), host_peak_bytes()),
            pinned_bytes=pinned_bytes,
        )

    def _work(self) -> None:
        interval = INTERVAL_S
        while not self._over.wait(interval):
            self._sample()
            if len(self.samples) > MOST_SAMPLES:  # a long run: half the samples, half as often
                del self.samples[1::2]
                interval *= 2

    def _sample(self) -> None:
        now = time.monotonic()
        if self._device.type == "cuda" and now - self._asked > DRIVER_INTERVAL_S:
            self._ask_driver()
            self._asked = now
        rss = int(psutil.Process().memory_info().rss)
        self._keep("rss", rss)
        self.samples.append(
            Sample(
                at_s=round(now - self._began, 3),
                stage=self.stage,
                rss_bytes=rss,
                allocated_bytes=torch.cuda.memory_allocated(self._device) if self._device.type == "cuda" else None,
                process_bytes=self._process,
                power_w=self._state.power_w,
                clock_mhz=self._state.clock_mhz,
            )
        )

    def _ask_driver(self) -> None:
        free, total = torch.cuda.mem_get_info(self._device)
        self._keep("used", total - free)
        self._state, self._process = query_gpu(self._device), process_bytes(self._device)
        if self._process is not None:
            self._keep("process", self._process)

    def _keep(self, name: str, value: int) -> None:
        self._most[name] = max(self._most.get(name, 0), value)


def _reset_host_peak() -> None:
    """Make the kernel's high-water mark of this process start at what it uses now; Linux only."""
    try:
        _CLEAR_REFS.write_text("5")
    except OSError:
        return


def host_peak_bytes() -> int:
    """That mark, which sees what falls between two samples; 0 where the system keeps none.

    Not getrusage's: there a child begins with the peak of the process that started it.
    """
    try:
        lines = _STATUS.read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM")), 0)
