"""Stopping a run on request without losing its work: the first signal asks, the second leaves at once."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))


class StopFlag:
    """`requested` turns true once Ctrl-C, SIGTERM or SIGHUP arrives; the run polls it after every step.

    `on_request` is called once, from the signal handler: it may set values and write a line, nothing long.
    """

    def __init__(self, on_request: Callable[[], None] | None = None) -> None:
        self._event = threading.Event()
        self._on_request = on_request

    @property
    def requested(self) -> bool:
        """Whether the run should end after the work in hand."""
        return self._event.is_set()

    def request(self) -> None:
        """Ask the run to stop, as the first signal does."""
        if self._event.is_set():
            return
        self._event.set()
        if self._on_request is not None:
            self._on_request()

    @contextmanager
    def installed(self) -> Iterator[StopFlag]:
        """Take the signals over for the time of a `with`; outside the main thread it changes nothing."""
        if threading.current_thread() is not threading.main_thread():
            yield self
            return
        before = {number: signal.getsignal(number) for number in SIGNALS}
        # A signal that is ignored was ignored on purpose (nohup, a background job of the shell).
        taken = {number: old for number, old in before.items() if old is not signal.SIG_IGN}
        for number in taken:
            signal.signal(number, self._handle)
        try:
            yield self
        finally:
            for number, old in taken.items():
                signal.signal(number, signal.SIG_DFL if old is None else old)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.requested:
            raise KeyboardInterrupt
        self.request()
