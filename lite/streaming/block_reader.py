"""A thread that fills host buffers, in order, ahead of the computation."""

from __future__ import annotations

import threading
import weakref
from dataclasses import dataclass, field
from queue import SimpleQueue
from typing import Protocol

from torch import Tensor

from .copy_queue import Event


class Source(Protocol):
    """Where a streamed block's bytes come from."""

    @property
    def nbytes(self) -> int: ...

    @property
    def ready(self) -> Tensor | None:
        """Host memory that the device copies from as it is; None: a ring buffer is filled first."""

    def fill(self, target: Tensor) -> None:
        """Write the `nbytes` bytes into host memory: uint8, at least as long."""


class Reader(Protocol):
    """A queue of reads into host memory, in order."""

    def read(self, source: Source, target: Tensor, after: Event) -> Event:
        """Queue filling `target` from `source` once `after` happened; returns its end."""

    def close(self) -> None:
        """Drop what has not begun and wait for what has."""


@dataclass
class _Read:
    """One job of the thread, and the event of its end."""

    source: Source
    target: Tensor
    after: Event
    done: threading.Event = field(default_factory=threading.Event)
    error: BaseException | None = None

    def happened(self) -> bool:
        return self.done.is_set() and self.error is None

    def wait(self) -> None:
        self.done.wait()
        if self.error is not None:
            raise self.error

    def run(self) -> None:
        """On the thread: whatever goes wrong is raised where the bytes are waited for."""
        try:
            self.after.wait()
            self.source.fill(self.target)
        except BaseException as error:  # noqa: BLE001
            self.error = error
        self.done.set()


class Dropped(Exception):
    """A read that had not begun when its reader was closed."""


class BlockReader:
    """Reads on a thread of its own. It starts with the first read and ends with `close`, or with the last reference."""

    def __init__(self) -> None:
        self._jobs: SimpleQueue[_Read | None] = SimpleQueue()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def read(self, source: Source, target: Tensor, after: Event) -> Event:
        if self._thread is None:
            # The thread must not hold the reader: it ends where the reader is forgotten.
            self._thread = threading.Thread(
                target=_work, args=(self._jobs, self._stop), name="hvlite block reader", daemon=True
            )
            weakref.finalize(self, self._jobs.put, None)
            self._thread.start()
        job = _Read(source, target, after)
        self._jobs.put(job)
        return job

    def close(self) -> None:
        self._stop.set()
        if self._thread is not None:
            self._jobs.put(None)
            self._thread.join()
            self._thread = None


def _work(jobs: SimpleQueue[_Read | None], stop: threading.Event) -> None:
    while job := jobs.get():
        if stop.is_set():
            job.error = Dropped("the block reader was closed")
            job.done.set()
        else:
            job.run()
