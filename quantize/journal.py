"""What a conversion has finished so far, so that a killed run goes on: one line a file, each checked by itself.

    .quantize/lock            held while a run is at work; the kernel lets go of it when the process dies
    .quantize/journal.jsonl   a header (what is being made), then a line for every file that is complete and on disk

Both are gone when the folder is finished.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import ConfigError
from ..files import (
    AppendFile,
    make_folder,
    parse_json,
    read_limited,
    remove_file,
    remove_folder,
    write_atomic,
    write_error,
)
from .readers.unfinished import WORK_FOLDER

_JOURNAL = "journal.jsonl"
_LOCK = "lock"
_LIMIT_BYTES = 1 << 28
_FLAGS = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW


@dataclass(frozen=True)
class FileRecord:
    """A finished file: its path inside the folder, its bytes, and how well its weights are stored."""

    path: str
    nbytes: int
    sha256: str
    layers: tuple[Mapping[str, Any], ...] = ()

    def to_json(self) -> dict[str, Any]:
        return {"file": self.path, "bytes": self.nbytes, "sha256": self.sha256, "layers": list(self.layers)}

    @classmethod
    def from_json(cls, line: Mapping[str, Any]) -> FileRecord:
        return cls(line["file"], line["bytes"], line["sha256"], tuple(line["layers"]))


class Journal:
    """The journal of a folder that this process has locked."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / WORK_FOLDER / _JOURNAL
        self.header: Mapping[str, Any] | None = None
        self.records: dict[str, FileRecord] = {}
        self._file: AppendFile | None = None
        self._read()

    def _read(self) -> None:
        """The lines up to the first damaged one. A journal without a good header counts for nothing."""
        lines = list(_good_lines(self.path))
        if lines and "header" in lines[0]:
            self.header = lines[0]["header"]
            for line in lines[1:]:
                self.records[line["file"]] = FileRecord.from_json(line)

    def begin(self, header: Mapping[str, Any]) -> None:
        """Start to write: the header and the records that are still good, without a torn tail behind them."""
        self.header = header
        lines = [{"header": header}, *(record.to_json() for record in self.records.values())]
        write_atomic(self.path, b"".join(map(_line, lines)))
        self._file = AppendFile(self.path)

    def append(self, record: FileRecord) -> None:
        """Note a finished file; on return the note is on disk."""
        assert self._file is not None
        self._file.append(_line(record.to_json()))
        self.records[record.path] = record

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def discard(self) -> None:
        """Remove the journal from disk: all it says is void."""
        self.close()
        self.header, self.records = None, {}
        remove_file(self.path)


def _line(value: Mapping[str, Any]) -> bytes:
    text = json.dumps(value, separators=(",", ":"))
    return f'{text[:-1]},"crc":{zlib.crc32(text.encode())}}}\n'.encode()


def _good_lines(path: Path) -> Iterator[dict[str, Any]]:
    if not path.is_file():
        return
    for raw in read_limited(path, _LIMIT_BYTES).splitlines(keepends=True):
        value = _checked(raw)
        if value is None:
            return
        yield value


def _checked(raw: bytes) -> dict[str, Any] | None:
    """The object of a line, or None where the line is torn or damaged."""
    text, mark, crc = raw.rpartition(b',"crc":')
    if not mark or not crc.endswith(b"}\n") or not crc[:-2].isdigit() or zlib.crc32(text + b"}") != int(crc[:-2]):
        return None
    value: dict[str, Any] = parse_json(text + b"}")
    return value


class FolderLock:
    """A held lock on an output folder; the file inside names the process."""

    def __init__(self, folder: Path) -> None:
        """Lock `folder`, making it where it is not there. ConfigError where another run holds it."""
        self.folder = folder / WORK_FOLDER
        self._path = self.folder / _LOCK
        self._fd = _take(self._path, folder)
        try:
            os.ftruncate(self._fd, 0)
            os.write(self._fd, str(os.getpid()).encode())
        except OSError as error:
            self.release()
            raise write_error(self._path, error) from error

    def release(self) -> None:
        """Let go; what was finished stays for the next run."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            with contextlib.suppress(OSError):  # closed all the same, and with it the lock is gone
                os.close(fd)

    def remove(self) -> None:
        """Take the lock and its folder away: the output is finished. A second call does nothing."""
        if self._fd < 0:
            return
        remove_file(self._path)
        self.release()
        remove_folder(self.folder)


def _take(path: Path, output: Path) -> int:
    while True:
        make_folder(path.parent)
        fd = _open_locked(path, output)
        # The last holder removes the file when it is done: a lock on a removed file would protect nothing.
        if fd >= 0 and _is_still(path, fd):
            return fd
        if fd >= 0:
            os.close(fd)


def _open_locked(path: Path, output: Path) -> int:
    """A locked descriptor; -1 where the last holder has just removed the folder."""
    try:
        fd = os.open(path, _FLAGS, 0o666)
    except FileNotFoundError:
        return -1
    except OSError as error:
        raise write_error(path, error) from error
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.read(fd, 20).decode("ascii", "replace")
        os.close(fd)
        raise ConfigError(
            f"{output} is being written by another run (process {holder})", hint="wait for it, or choose another folder"
        ) from None
    except OSError as error:
        with contextlib.suppress(OSError):
            os.close(fd)
        raise write_error(path, error) from error
    return fd


def _is_still(path: Path, fd: int) -> bool:
    try:
        return os.path.samestat(os.stat(path), os.fstat(fd))
    except FileNotFoundError:
        return False
