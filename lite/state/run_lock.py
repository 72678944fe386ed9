"""One process per state folder: an advisory lock that the kernel lets go when the process dies, however it dies."""

from __future__ import annotations

import contextlib
import fcntl
import os
from pathlib import Path

from ...errors import ConfigError
from ...files import make_folder, no_empty_folders, remove_file, write_error

LOCK_NAME = "lock"
_FLAGS = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW


class RunLock:
    """A held lock on a folder; the file inside names the process."""

    def __init__(self, path: Path, fd: int) -> None:
        self._path = path
        self._fd = fd

    @classmethod
    def take(cls, folder: Path, *, name: str = LOCK_NAME, other: str = "--output") -> RunLock:
        """Make the folder and lock it. ConfigError where another run holds it, DiskError where it cannot be made.

        `name`: of the lock's file. `other`: the option that names another place.
        """
        path = folder / name
        with no_empty_folders(folder):
            while True:
                fd = _open_locked(path, other)
                # The last holder removes the file when it is done: a lock on a removed file would protect nothing.
                if _is_still(path, fd):
                    _sign(path, fd)
                    return cls(path, fd)
                os.close(fd)

    @property
    def is_held(self) -> bool:
        """Until `release`."""
        return self._fd >= 0

    def release(self, *, remove: bool = False) -> None:
        """Let go; `remove` takes the file away first. A second call does nothing."""
        fd, self._fd = self._fd, -1
        if fd < 0:
            return
        try:
            if remove:
                remove_file(self._path)
        finally:
            with contextlib.suppress(OSError):  # closed all the same, and with it the lock is gone
                os.close(fd)


def _open_locked(path: Path, other: str) -> int:
    make_folder(path.parent)
    try:
        fd = os.open(path, _FLAGS, 0o666)
    except OSError as error:
        raise write_error(path, error) from error
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.read(fd, 20).decode("ascii", "replace")
        os.close(fd)
        raise ConfigError(
            f"{path.parent} is in use by another run (process {holder})", hint=f"wait for it, or choose another {other}"
        ) from None
    except OSError as error:
        with contextlib.suppress(OSError):
            os.close(fd)
        raise write_error(path, error) from error
    return fd


def _sign(path: Path, fd: int) -> None:
    """Name this process in the file."""
    try:
        os.ftruncate(fd, 0)
        os.write(fd, str(os.getpid()).encode())
    except OSError as error:
        with contextlib.suppress(OSError):
            path.unlink()  # a full disk is left without an empty file
        with contextlib.suppress(OSError):
            os.close(fd)
        raise write_error(path, error) from error


def _is_still(path: Path, fd: int) -> bool:
    try:
        return os.path.samestat(os.stat(path), os.fstat(fd))
    except FileNotFoundError:
        return False
