"""How fast bytes move on this machine: from disk, and from host memory to the device."""

from __future__ import annotations

import os
import time
from pathlib import Path
from statistics import median

import torch

from ..lite.streaming.copy_queue import CudaDevice
from ..lite.streaming.host_memory import HostBuffer
from .timing import seconds_of

READ_BYTES = 16 << 20
LINK_BYTES = 256 << 20


def disk_bytes_per_s(path: Path) -> float:
    """Reading a file that is not in the page cache; as far as the system drops it when asked."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        buffer, count, began = bytearray(READ_BYTES), 0, time.perf_counter()
        while done := os.readv(fd, [buffer]):
            count += done
        return count / (time.perf_counter() - began)
    finally:
        os.close(fd)


def link_bytes_per_s(device: torch.device) -> float | None:
    """A copy from page-locked host memory to the device; None on a CPU, which has no link."""
    if device.type != "cuda":
        return None
    buffer = HostBuffer(LINK_BYTES)
    try:
        buffer.pin(CudaDevice(device).page_lock)
        target = torch.empty(LINK_BYTES, dtype=torch.uint8, device=device)
        times = [seconds_of(lambda: target.copy_(buffer.tensor, non_blocking=True), device) for _ in range(6)]
        return LINK_BYTES / median(times[1:])
    finally:
        buffer.close()


def memory_bytes_per_s(device: torch.device) -> float:
    """A copy inside the device's memory: bytes read and written together."""
    size = LINK_BYTES if device.type == "cuda" else LINK_BYTES // 8
    source, target = (torch.zeros(size, dtype=torch.uint8, device=device) for _ in range(2))
    times = [seconds_of(lambda: target.copy_(source), device) for _ in range(6)]
    return 2 * size / median(times[1:])
