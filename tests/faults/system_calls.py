"""Stand-ins for the system calls that change files, handing each call to a `FaultyDisk`.

Python's buffered files write from C, past `os.write`; so descriptors are wrapped in a raw file of our own, below
Python's real buffers. Calls on other folders go through untouched.
"""

from __future__ import annotations

import fcntl
import io
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fault_disk import FaultyDisk


class RawFile(io.FileIO):
    """A raw file whose every call passes by the disk."""

    def __init__(self, disk: FaultyDisk, fd: int, mode: str) -> None:
        self._disk = disk
        self._gone = False
        super().__init__(fd, mode)

    def write(self, data: Any, /) -> int:
        content = bytes(data)
        return self._disk.write(self.fileno(), content, super().write) if content else 0

    def readinto(self, buffer: Any, /) -> int:
        self._disk.read(self._disk.opened[self.fileno()].path)
        return super().readinto(buffer)

    def readall(self) -> bytes:
        self._disk.read(self._disk.opened[self.fileno()].path)
        return super().readall()

    def close(self) -> None:
        if self.closed or self._gone:
            super().close()
        else:
            self._disk.close(self.fileno(), super().close)

    def abandon(self) -> None:
        """Close without a word to the disk."""
        if not self.closed:
            self._gone = True
            self._disk.opened.pop(self.fileno(), None)
            self.close()


class SystemCalls:
    """Patches `os` and `fcntl` while it is installed."""

    def __init__(self, disk: FaultyDisk) -> None:
        self._disk = disk
        self._files: list[RawFile] = []
        self._saved: list[tuple[Any, str, Any]] = []
        self.real_pwrite = os.pwrite

    def install(self) -> None:
        makers: dict[str, Callable[[Any], Any]] = {
            "open": self._open,
            "fdopen": self._fdopen,
            "close": self._close,
            "write": self._write,
            "fsync": self._fsync,
            "ftruncate": self._ftruncate,
            "mkdir": self._mkdir,
            "pread": self._read,
            "preadv": self._read,
        }
        makers |= dict.fromkeys(("replace", "rename"), self._rename)
        makers |= dict.fromkeys(("unlink", "remove"), self._removal("unlink"))
        makers |= dict.fromkeys(("rmdir",), self._removal("rmdir"))
        for name, make in makers.items():
            self._patch(os, name, make)
        self._patch(fcntl, "flock", self._flock)

    def _patch(self, module: Any, name: str, make: Callable[[Any], Any]) -> None:
        real = getattr(module, name)
        self._saved.append((module, name, real))
        setattr(module, name, make(real))

    def remove(self) -> None:
        for module, name, real in reversed(self._saved):
            setattr(module, name, real)
        self._saved.clear()
        for file in self._files:
            file.abandon()
        self._files.clear()

    def _path(self, path: Any) -> str | None:
        """The absolute path where the disk covers it."""
        text = os.path.abspath(os.fspath(path))
        return text if self._disk.covers(text) else None

    def _open(self, real: Callable[..., int]) -> Callable[..., int]:
        def stand_in(path: Any, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
            text = None if dir_fd is not None or isinstance(path, int) else os.path.abspath(os.fspath(path))
            if text is None or not (self._disk.covers(text) or self._disk.is_frozen(text)):
                return real(path, flags, mode, dir_fd=dir_fd)
            return self._disk.open(text, flags, lambda: real(path, flags, mode))

        return stand_in

    def _fdopen(self, real: Callable[..., Any]) -> Callable[..., Any]:
        def stand_in(fd: int, mode: str = "r", buffering: int = -1, *args: Any, **kwargs: Any) -> Any:
            if fd not in self._disk.opened:
                return real(fd, mode, buffering, *args, **kwargs)
            assert "b" in mode, "only binary files are known here"
            raw = RawFile(self._disk, fd, mode)
            self._files.append(raw)
            if buffering == 0:
                return raw
            if "+" in mode:
                return io.BufferedRandom(raw)
            return io.BufferedReader(raw) if "r" in mode else io.BufferedWriter(raw)

        return stand_in

    def _close(self, real: Callable[[int], None]) -> Callable[[int], None]:
        def stand_in(fd: int) -> None:
            self._disk.close(fd, lambda: real(fd))

        return stand_in

    def _write(self, real: Callable[[int, Any], int]) -> Callable[[int, Any], int]:
        def stand_in(fd: int, data: Any) -> int:
            if fd not in self._disk.opened:
                return real(fd, data)
            return self._disk.write(fd, bytes(data), lambda part: real(fd, part))

        return stand_in

    def _fsync(self, real: Callable[[Any], None]) -> Callable[[Any], None]:
        def stand_in(fd: Any) -> None:
            if not isinstance(fd, int) or fd not in self._disk.opened:
                return real(fd)
            return self._disk.sync(fd)

        return stand_in

    def _ftruncate(self, real: Callable[[int, int], None]) -> Callable[[int, int], None]:
        def stand_in(fd: int, length: int) -> None:
            if fd not in self._disk.opened:
                return real(fd, length)
            return self._disk.truncate(fd, length, lambda: real(fd, length))

        return stand_in

    def _mkdir(self, real: Callable[..., None]) -> Callable[..., None]:
        def stand_in(path: Any, mode: int = 0o777, *, dir_fd: int | None = None) -> None:
            text = self._path(path)
            if text is None:
                return real(path, mode, dir_fd=dir_fd)
            return self._disk.mkdir(text, lambda: real(path, mode))

        return stand_in

    def _rename(self, real: Callable[..., None]) -> Callable[..., None]:
        def stand_in(source: Any, target: Any, **kwargs: Any) -> None:
            old, new = self._path(source), self._path(target)
            if old is None or new is None:
                return real(source, target, **kwargs)
            return self._disk.rename(old, new, lambda: real(source, target, **kwargs))

        return stand_in

    def _removal(self, name: str) -> Callable[[Any], Any]:
        def make(real: Callable[..., None]) -> Callable[..., None]:
            def stand_in(path: Any, *, dir_fd: int | None = None) -> None:
                text = self._path(path)
                if text is None:
                    return real(path, dir_fd=dir_fd)
                return self._disk.remove(name, text, lambda: real(path))

            return stand_in

        return make

    def _read(self, real: Callable[..., Any]) -> Callable[..., Any]:
        def stand_in(fd: int, *args: Any) -> Any:
            if fd in self._disk.opened:
                self._disk.read(self._disk.opened[fd].path)
            return real(fd, *args)

        return stand_in

    def _flock(self, real: Callable[[int, int], None]) -> Callable[[int, int], None]:
        def stand_in(fd: Any, operation: int) -> None:
            if fd not in self._disk.opened:
                return real(fd, operation)
            return self._disk.lock(fd, lambda: real(fd, operation))

        return stand_in
