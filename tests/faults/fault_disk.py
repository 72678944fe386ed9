"""A disk that fails on demand, below one folder: every call that changes a file is counted, and one meets a fault.

The process dies (nothing that comes after reaches the disk), or a call is refused, done in part, or done and reported
as failed. The same layer records what was done, for `power_loss`. Nothing is really synced, which makes a run fast:
what a sync is worth is the business of `power_loss`.
"""

from __future__ import annotations

import errno
import os
import signal
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, NoReturn

from system_calls import SystemCalls

CHANGES = (
    "open",
    "write",
    "truncate",
    "fsync",
    "close",
    "rename",
    "unlink",
    "mkdir",
    "rmdir",
    "opendir",
    "fsyncdir",
    "lock",
)
# The kinds of faults, and the calls each is tried on. A death before a call is also the death after the one in front.
ON: dict[str, tuple[str, ...]] = {
    "kill": CHANGES,
    "sigkill": CHANGES,  # a real one: only for a process made for it
    "torn": ("write",),  # dies in the middle of it
    "enospc": ("open", "write", "fsync", "rename", "mkdir"),
    "full": ("open", "write", "mkdir"),  # the disk is full from here on
    "eio": CHANGES,
    "eio_done": (
        "write",
        "fsync",
        "close",
        "rename",
        "unlink",
        "mkdir",
        "rmdir",
        "fsyncdir",
    ),  # done, reported as failed
    "broken": CHANGES,  # every call fails from here on
    "lost": ("fsync",),  # fails, and the kernel has dropped the pages that it could not write
    "short": ("write",),  # fewer bytes are taken than were given, which is no error
    "eintr": ("rename", "unlink", "mkdir", "rmdir"),  # Python itself repeats the others
    "eio_read": ("read",),
}
DEADLY = ("kill", "torn", "sigkill")
STICKY = ("full", "broken")
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT
_ERRNO = {"enospc": errno.ENOSPC, "full": errno.ENOSPC, "eintr": errno.EINTR}


class Killed(BaseException):
    """The simulated process has died: no code of it does anything to the disk any more."""


@dataclass(frozen=True)
class Fault:
    """What happens, and at which call, counted from 0. Reads are counted apart."""

    kind: str
    at: int


@dataclass(frozen=True)
class Call:
    """A call: one of CHANGES, or "read". `inode` stays a file's own when it is renamed; `target` is its new name."""

    name: str
    path: str
    inode: int = 0
    offset: int = 0
    data: bytes = b""
    target: str = ""
    failed: bool = False


@dataclass
class Opened:
    """An open descriptor. `unsynced`: offset and length of what was written through it since the last sync."""

    path: str
    inode: int = 0
    kind: Literal["file", "folder", "read"] = "file"
    unsynced: list[tuple[int, int]] = field(default_factory=list)


class FaultyDisk:
    """In a `with`: every change below `root` is counted, recorded in `calls`, and meets `fault` when its turn comes.

    `frozen` may only be read; a try to open something in it for writing is noted in `trespasses`.
    """

    def __init__(self, root: Path, fault: Fault | None = None, frozen: Path | None = None) -> None:
        self.root, self.frozen = str(root), str(frozen) if frozen else None
        self.fault = fault
        self.calls: list[Call] = []
        self.reads = 0
        self.hit: Call | None = None
        self.dead = False
        self.trespasses: list[str] = []
        self.opened: dict[int, Opened] = {}
        self.inodes: dict[str, int] = {}
        self._count = 0
        self._system = SystemCalls(self)
        for folder, folders, files in os.walk(root):
            for name in (*folders, *files):
                self.new_inode(os.path.join(folder, name))

    def new_inode(self, path: str) -> int:
        """A number for a file or folder that is new at `path`, never used again."""
        self._count += 1
        self.inodes[path] = self._count
        return self._count

    def __enter__(self) -> FaultyDisk:
        self._system.install()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """The process is gone: the kernel closes what it had open, and with that lets go of its locks."""
        self._system.remove()
        for fd in self.opened:
            os.close(fd)
        self.opened.clear()

    def covers(self, path: str) -> bool:
        """Whether a path lies below the folder, or is it."""
        return path == self.root or path.startswith(self.root + os.sep)

    def is_frozen(self, path: str) -> bool:
        return self.frozen is not None and (path == self.frozen or path.startswith(self.frozen + os.sep))

    def open(self, path: str, flags: int, real: Callable[[], int]) -> int:
        """Open a file or folder; what is opened to be read is no change, and is followed only to count the reads."""
        changes = bool(flags & _WRITING)
        if self.is_frozen(path) and changes:
            self.trespasses.append(path)
        if flags & os.O_DIRECTORY:
            opened = Opened(path, kind="folder")
        elif changes:
            opened = Opened(path)
        else:
            opened = Opened(path, kind="read")
        if opened.kind == "read":
            fd = real()
        else:
            fd = self._do(Call("open" if changes else "opendir", path), real)
            opened.inode = self.inodes.get(path) or self.new_inode(path)
            self.calls[-1] = replace(self.calls[-1], inode=opened.inode)
        self.opened[fd] = opened
        return fd

    def sync(self, fd: int) -> None:
        """Nothing is really synced."""
        file = self.opened[fd]
        name = "fsyncdir" if file.kind == "folder" else "fsync"
        self._do(Call(name, file.path, file.inode), lambda: None)
        file.unsynced.clear()

    def truncate(self, fd: int, length: int, real: Callable[[], None]) -> None:
        file = self.opened[fd]
        self._do(Call("truncate", file.path, file.inode, offset=length), real)

    def lock(self, fd: int, real: Callable[[], None]) -> None:
        file = self.opened[fd]
        self._do(Call("lock", file.path, file.inode), real)

    def mkdir(self, path: str, real: Callable[[], None]) -> None:
        self._do(Call("mkdir", path), real)
        self.calls[-1] = replace(self.calls[-1], inode=self.new_inode(path))

    def rename(self, path: str, target: str, real: Callable[[], None]) -> None:
        inode = self.inodes.get(path, 0)
        self._do(Call("rename", path, inode, target=target), real)
        self.inodes[target] = self.inodes.pop(path, inode)

    def remove(self, name: str, path: str, real: Callable[[], None]) -> None:
        """unlink or rmdir."""
        self._do(Call(name, path, self.inodes.get(path, 0)), real)
        self.inodes.pop(path, None)

    def _do(self, call: Call, real: Callable[[], Any]) -> Any:
        """Make a call that is done as a whole or not at all."""
        kind = self._meet(call)
        if kind == "eio_done":
            self._do_first(real)
        if kind == "lost":
            self._drop_pages(call)
        if kind:
            self._refuse(kind, call)
        try:
            return real()
        except OSError:
            self.calls[-1] = replace(call, failed=True)
            raise

    def _do_first(self, real: Callable[[], Any]) -> None:
        """A call that fails of itself cannot be done and reported as failed: then there was no fault."""
        try:
            real()
        except OSError:
            self.hit = None
            raise

    def close(self, fd: int, real: Callable[[], None]) -> None:
        """Close a descriptor: whatever is reported, it is closed. A dead process's is closed by the kernel."""
        file = self.opened.pop(fd, None)
        try:
            known = file is not None and file.kind != "read" and not self.dead
            kind = self._meet(Call("close", file.path, file.inode)) if file and known else None
        finally:
            real()
        if file and kind:
            self._refuse(kind, self.calls[-1])

    def write(self, fd: int, data: bytes, real: Callable[[bytes], int]) -> int:
        """Write: the one call that may be done in part."""
        file = self.opened[fd]
        kind = self._meet(Call("write", file.path, file.inode, data=data))
        if kind in ("short", "torn"):
            data = data[: len(data) // 2]
        elif kind and kind != "eio_done":
            self._refuse(kind, self.calls[-1])
        count = real(data)
        offset = os.lseek(fd, 0, os.SEEK_CUR) - count
        file.unsynced.append((offset, count))
        self.calls[-1] = replace(self.calls[-1], offset=offset, data=data[:count])
        if kind == "torn":
            self._die()
        if kind == "eio_done":
            self._refuse(kind, self.calls[-1])
        return count

    def read(self, path: str) -> None:
        """Count a read that is about to be made."""
        if self._meet(Call("read", path)):
            self._refuse("eio_read", Call("read", path))

    def _meet(self, call: Call) -> str | None:
        """Count a call that is about to be made; the kind of the fault it meets, if it meets one."""
        if self.dead:
            raise Killed
        if call.name == "read":
            index, self.reads = self.reads, self.reads + 1
        else:
            index = len(self.calls)
            self.calls.append(call)
        fault = self.fault
        if fault is None or call.name not in ON[fault.kind] or not self._is_due(fault, index):
            return None
        self.hit = self.hit or call
        if fault.kind == "sigkill":
            os.kill(os.getpid(), signal.SIGKILL)
        if fault.kind == "kill":
            self._die()
        return fault.kind

    def _is_due(self, fault: Fault, index: int) -> bool:
        return index == fault.at or (fault.kind in STICKY and self.hit is not None)

    def _die(self) -> NoReturn:
        self.dead = True
        raise Killed

    def _refuse(self, kind: str, call: Call) -> NoReturn:
        number = _ERRNO.get(kind, errno.EIO)
        raise OSError(number, os.strerror(number), call.path)

    def _drop_pages(self, call: Call) -> None:
        """What was written since the last sync reads as zeros from now on."""
        for fd, file in self.opened.items():
            for offset, count in file.unsynced if file.inode == call.inode else []:
                self._system.real_pwrite(fd, bytes(count), offset)
