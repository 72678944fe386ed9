"""One generation per graphics card: two would run each other out of memory.

An advisory lock on a file of its own for each card, in a folder that all users of the machine share. The kernel lets
go of it when its process dies, however it dies, so what an old file says means nothing while nobody holds the lock.
The file stays where it is: one that could be removed could be locked twice.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from ...errors import DeviceBusyError, InterruptedRunError
from ...files import write_error
from ..events import Listener, Note
from ..interrupt import StopFlag

LOCK_FOLDER = Path("/tmp")  # not TMPDIR: processes with another one would not see each other's locks
POLL_S = 0.2
NOTE_LIMIT_BYTES = 1000
_FLAGS = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK


@dataclass(frozen=True)
class GpuHolder:
    """Who has a card: the process, what it does, and when it took the card (seconds since 1970); None: not known."""

    pid: int | None = None
    command: str = "another program"
    since: float | None = None

    def __str__(self) -> str:
        """One clause for a message."""
        process = f"process {self.pid}" if self.pid is not None else "a process"
        if self.since is None:
            return f"{process} ({self.command})"
        return f"{process} ({self.command}, since {time.strftime('%H:%M:%S', time.localtime(self.since))})"


@contextlib.contextmanager
def hold_gpu(
    key: str,
    name: str,
    command: str,
    *,
    wait: bool,
    stop: StopFlag,
    on_event: Listener,
    folder: Path = LOCK_FOLDER,
) -> Iterator[None]:
    """Have the card to oneself for the time of a `with`.

    `key` identifies the card (its UUID), `name` is for people, `command` is what others read while they wait. Where
    another process has the card: waits for it and says so, or raises DeviceBusyError without `wait`. Raises
    InterruptedRunError where `stop` is requested while waiting, DiskError where the lock's file cannot be made.
    """
    fd = _open(folder / f"hvlite-gpu-{re.sub(r'[^A-Za-z0-9-]', '_', key)[:100]}.lock")
    try:
        if not _locked(fd):
            _refuse_or_wait(fd, name, wait=wait, stop=stop, on_event=on_event)
        _write(fd, json.dumps({"pid": os.getpid(), "command": command[:200], "since": time.time()}))
        try:
            yield
        finally:
            _write(fd, "")
    finally:
        os.close(fd)  # and with it the lock is gone


def _refuse_or_wait(fd: int, name: str, *, wait: bool, stop: StopFlag, on_event: Listener) -> None:
    busy = f"{name} is in use by {read_holder(fd)}"
    if not wait:
        raise DeviceBusyError(busy, hint="without --no-wait hvlite waits for it; --device cpu does without")
    on_event(Note("info", f"{busy}: waiting for it (--no-wait refuses instead)"))
    began = time.monotonic()
    _poll(lambda: _locked(fd), stop)
    on_event(Note("info", f"{name} is free after {time.monotonic() - began:.0f} s"))


def _poll(done: Callable[[], bool], stop: StopFlag) -> None:
    while not done():
        if stop.requested:
            raise InterruptedRunError("stopped while waiting for the graphics card; nothing was begun")
        time.sleep(POLL_S)


def read_holder(fd: int) -> GpuHolder:
    """What the holder wrote; the default where it has not, or where the words are not ours."""
    try:
        found = json.loads(os.pread(fd, NOTE_LIMIT_BYTES, 0))
        return GpuHolder(int(found["pid"]), str(found["command"])[:200], float(found["since"]))
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return GpuHolder()


def _open(path: Path) -> int:
    """The card's file, made for all users where it is not there. Without O_CREAT, which a sticky folder may refuse."""
    try:
        with contextlib.suppress(FileNotFoundError):
            return os.open(path, _FLAGS)
        with contextlib.suppress(FileExistsError):
            fd = os.open(path, _FLAGS | os.O_CREAT | os.O_EXCL, 0o666)
            os.fchmod(fd, 0o666)  # whatever the umask
            return fd
        return os.open(path, _FLAGS)
    except OSError as error:
        raise write_error(path, error) from error


def _locked(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _write(fd: int, text: str) -> None:
    """The name in the file is for people: a full disk takes nothing from the lock."""
    with contextlib.suppress(OSError):
        os.ftruncate(fd, 0)
        os.pwrite(fd, text.encode("ascii", "backslashreplace")[:NOTE_LIMIT_BYTES], 0)
