"""Host memory of exact size that the device copies from, page-locked where the system allows it.

torch rounds pinned blocks up to a power of two: 226 MB become 256, and 1.2 GiB become 2. Here a buffer is an anonymous
mapping, registered as it is.
"""

from __future__ import annotations

import ctypes
import mmap
import weakref
from collections.abc import Callable, Iterable
from typing import Any, Protocol

import torch
from torch import Tensor

from ..events import Listener, Note


class PageLock(Protocol):
    """Registers host memory with the driver, so that copies from it run beside the host."""

    def register(self, address: int, nbytes: int) -> str | None:
        """None, or why it was refused; nothing of a refusal is left behind."""

    def unregister(self, address: int) -> None: ...


class CudaPageLock:
    """Page-locks through the CUDA runtime that torch itself uses.

    A refused registration stays the runtime's "last error" and makes the next kernel launch fail for no reason of its
    own. torch gives no way to read it away, so one small launch is made on purpose to take it. `cudart` and `launch`
    are torch's; a test gives others.
    """

    def __init__(self, cudart: Any, launch: Callable[[], object]) -> None:
        self._cudart = cudart
        self._launch = launch

    @classmethod
    def of(cls, device: torch.device) -> CudaPageLock:
        scratch = torch.zeros(1, device=device)  # there before any refusal, so that the launch needs no memory
        return cls(torch.cuda.cudart(), lambda: scratch.fill_(1))

    def register(self, address: int, nbytes: int) -> str | None:
        code = int(self._cudart.cudaHostRegister(address, nbytes, 0))
        if not code:
            return None
        self._take_error()
        return f"CUDA error {code}"

    def unregister(self, address: int) -> None:
        if int(self._cudart.cudaHostUnregister(address)):
            self._take_error()

    def _take_error(self) -> None:
        """The error left behind belongs to the call before; a second launch shows whether the device is well."""
        try:
            self._launch()
        except RuntimeError:
            self._launch()


class HostBuffer:
    """`nbytes` of page-aligned host memory: `tensor` is uint8 [nbytes]. `pinned` once it is page-locked.

    Memory that is unmapped while it is registered stays with the driver, so a forgotten buffer unlocks itself too.
    """

    def __init__(self, nbytes: int) -> None:
        self.nbytes = nbytes
        mapping = mmap.mmap(-1, max(nbytes, 1), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        self.tensor: Tensor = torch.frombuffer(mapping, dtype=torch.uint8)[:nbytes]  # keeps the mapping
        self._unlock: weakref.finalize[..., HostBuffer] | None = None

    @property
    def pinned(self) -> bool:
        return self._unlock is not None

    def pin(self, lock: PageLock) -> str | None:
        """Page-lock it; returns why not where the system refuses, and then it stays pageable."""
        address = self.tensor.data_ptr()
        refusal = lock.register(address, self.nbytes)
        if refusal is None:
            self._unlock = weakref.finalize(self, lock.unregister, address)
            self._unlock.atexit = False  # the driver lets go of all with the process
        return refusal

    def fill(self, target: Tensor) -> None:
        """Copy it into `target`: uint8 in host memory, at least `nbytes`."""
        target[: self.nbytes].copy_(self.tensor)

    def close(self) -> None:
        """Give the memory back. No copy from it may be under way."""
        if self._unlock is not None:
            self._unlock()
            self._unlock = None
        self.tensor = self.tensor.new_empty(0)


class HostMemory:
    """Allocates host buffers, page-locked up to `pinned_limit_bytes`. Without a `lock` none is: a CPU needs none."""

    def __init__(self, lock: PageLock | None, pinned_limit_bytes: int, on_event: Listener) -> None:
        self._lock = lock
        self._left = pinned_limit_bytes
        self._on_event = on_event
        self._buffers: list[HostBuffer] = []

    @property
    def pinned_bytes(self) -> int:
        """What is page-locked now."""
        return sum(buffer.nbytes for buffer in self._buffers if buffer.pinned)

    def allocate(self, nbytes: int) -> HostBuffer:
        """A buffer, page-locked while the limit allows; after the first refusal, which is told, none is."""
        buffer = HostBuffer(nbytes)
        self._buffers.append(buffer)
        if self._lock is None or nbytes > self._left:
            return buffer
        refusal = buffer.pin(self._lock)
        if refusal is None:
            self._left -= nbytes
        else:
            self._lock = None
            self._on_event(
                Note(
                    "warning",
                    f"the system refuses to page-lock {nbytes / 2**20:,.0f} MiB of host memory ({refusal}): "
                    "weights are copied from pageable memory, more slowly",
                )
            )
        return buffer

    def free(self, buffers: Iterable[HostBuffer]) -> None:
        """Give these back. No copy from them may be under way."""
        for buffer in buffers:
            self._left += buffer.nbytes if buffer.pinned else 0
            buffer.close()
            self._buffers.remove(buffer)

    def close(self) -> None:
        """Give all back."""
        self.free(list(self._buffers))


def bytes_of(tensor: Tensor) -> memoryview:
    """The memory of a contiguous uint8 tensor on the host, writable."""
    return memoryview((ctypes.c_char * tensor.numel()).from_address(tensor.data_ptr())).cast("B")
