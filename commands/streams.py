"""Standard output and standard error as a run finds them: open, closed, a pipe nobody reads, a full disk.

None of these may cost work that is done. A stream that fails falls silent; what standard output could not take is told
at the end, as it is what the command was asked for.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from typing import Any, TextIO

from ..errors import DiskError


class LastingStream:
    """A text stream whose writes never raise. `failure`: why it fell silent."""

    def __init__(self, stream: TextIO) -> None:
        self.failure: OSError | ValueError | None = None
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Write, or after a failure do nothing."""
        if self.failure is None:
            try:
                self._stream.write(text)
            except UnicodeError:
                raise
            except (OSError, ValueError) as error:
                self._fall_silent(error)
        return len(text)

    def flush(self) -> None:
        """Flush, or after a failure do nothing."""
        if self.failure is None:
            try:
                self._stream.flush()
            except (OSError, ValueError) as error:
                self._fall_silent(error)

    def _fall_silent(self, error: OSError | ValueError) -> None:
        self.failure = error
        with contextlib.suppress(OSError, ValueError):  # no descriptor: nothing is tried again at the end
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self._stream.fileno())  # or the interpreter, leaving, fails on what is still buffered
            os.close(nowhere)


@contextlib.contextmanager
def lasting_streams() -> Iterator[LastingStream]:
    """For the time of a `with`, stdout and stderr never raise; gives stdout."""
    _open_missing()
    before = sys.stdout, sys.stderr
    out = LastingStream(sys.stdout)
    sys.stdout, sys.stderr = out, LastingStream(sys.stderr)
    try:
        yield out
    finally:
        sys.stderr.flush()
        sys.stdout, sys.stderr = before


def output_error(out: LastingStream) -> DiskError | None:
    """What went wrong with standard output. A reader that went away, and a stream closed on purpose, are no errors."""
    out.flush()
    if out.failure is None or isinstance(out.failure, BrokenPipeError | ValueError):
        return None
    return DiskError(
        f"cannot write to standard output: {out.failure.strerror or out.failure}",
        hint="the work itself is done; only what the command prints is lost",
    )


def _open_missing() -> None:
    """A stream closed before the start (`>&-`) is None in Python; its descriptor would go to the next file opened."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            stream = open(os.devnull, mode, encoding="utf-8")  # noqa: SIM115  # open to the end, as the streams are
            os.set_inheritable(stream.fileno(), True)
            setattr(sys, name, stream)
