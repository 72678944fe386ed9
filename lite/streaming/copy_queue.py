"""What streaming needs of a device: memory, a queue of copies beside the queue of computation, and events between them.

The scheduler in `block_stream.py` knows only this interface, so that it runs on a GPU, a CPU and simulated devices.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from .host_memory import CudaPageLock, PageLock


class Event(Protocol):
    """A point in the work of a queue."""

    def happened(self) -> bool:
        """Whether it lies behind, and well."""

    def wait(self) -> None:
        """Hold the calling thread until it happened. Raises what went wrong instead."""


class CopyDevice(Protocol):
    """A device with a queue of copies and a queue of computation, each in order, each beside the other and the host."""

    @property
    def page_lock(self) -> PageLock | None:
        """How host memory becomes fast to copy from; None where all of it is."""

    def allocate(self, nbytes: int) -> Tensor:
        """Flat device memory, uint8 [nbytes]; the computation queue may still be using what was there before."""

    def copy(self, target: Tensor, source: Tensor, after: Event) -> Event:
        """Queue a copy from host memory that starts after `after`; returns its end."""

    def compute_after(self, event: Event) -> None:
        """Whatever is computed from now on starts after `event`."""

    def release(self, flat: Tensor) -> Event:
        """Nothing computed from now on uses `flat`; returns the end of what was queued before."""


class Happened:
    """An event that lies behind."""

    def happened(self) -> bool:
        return True

    def wait(self) -> None:
        return None


HAPPENED = Happened()


class CpuDevice:
    """The host as a device: every copy is done when it is asked for, and so is all computation."""

    page_lock = None

    def allocate(self, nbytes: int) -> Tensor:
        return torch.empty(nbytes, dtype=torch.uint8)

    def copy(self, target: Tensor, source: Tensor, after: Event) -> Event:
        target.copy_(source)
        return HAPPENED

    def compute_after(self, event: Event) -> None:
        return None

    def release(self, flat: Tensor) -> Event:
        return HAPPENED


class CudaEvent:
    """An event of a CUDA stream; a thread that waits for it sleeps."""

    def __init__(self, stream: torch.cuda.Stream) -> None:
        self.event = torch.cuda.Event(blocking=True)
        self.event.record(stream)

    def happened(self) -> bool:
        return self.event.query()

    def wait(self) -> None:
        self.event.synchronize()


class CudaDevice:
    """A CUDA device with a stream for copies; computation is whatever the current stream does."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._copies = torch.cuda.Stream(device)
        self._page_lock = CudaPageLock.of(device)

    @property
    def page_lock(self) -> PageLock:
        return self._page_lock

    def allocate(self, nbytes: int) -> Tensor:
        return torch.empty(nbytes, dtype=torch.uint8, device=self._device)

    def copy(self, target: Tensor, source: Tensor, after: Event) -> Event:
        self._wait(self._copies, after)
        with torch.cuda.stream(self._copies):
            target.copy_(source, non_blocking=True)
        return CudaEvent(self._copies)

    def compute_after(self, event: Event) -> None:
        self._wait(torch.cuda.current_stream(self._device), event)

    def release(self, flat: Tensor) -> Event:
        return CudaEvent(torch.cuda.current_stream(self._device))

    def _wait(self, stream: torch.cuda.Stream, event: Event) -> None:
        """Make a stream wait, not the host."""
        if isinstance(event, CudaEvent):
            stream.wait_event(event.event)
        else:
            event.wait()


def copy_device(device: torch.device) -> CopyDevice:
    """The implementation for a torch device."""
    return CudaDevice(device) if device.type == "cuda" else CpuDevice()
