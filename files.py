"""Crash-safe writing, hashing and strict reading of files. Imports no torch, so that a command line starts fast.

Writing: a file that carries its final name is complete. Reading: nothing is trusted; every surprise is a typed error
that names the path.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import math
import os
import secrets
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

from .errors import CheckpointError, DiskError

JSON_LIMIT_BYTES = 4 * 2**20
JSON_LIMIT_DEPTH = 64
_RESTORE = "restore the file as it came, or correct it"

SAME_COMMAND = "run the same command again"  # what goes on with work that is resumed without being asked

_WRITE_HINTS = {
    errno.ENOSPC: f"free some space on that disk, then {SAME_COMMAND}",
    errno.EDQUOT: f"the quota is used up; free some space, then {SAME_COMMAND}",
    errno.EFBIG: "the file system does not take files of that size; choose another disk",
    errno.EROFS: "the disk is mounted read-only; choose another folder",
    errno.EACCES: "choose a folder you may write to",
    errno.EPERM: "choose a folder you may write to",
    errno.ENOENT: "the folder does not exist",
    errno.ENAMETOOLONG: "choose a shorter name",
    errno.EIO: "the disk reports a failure; check it before anything else",
}


def write_error(path: Path, error: OSError) -> DiskError:
    """The `DiskError` for an OSError met while writing `path`."""
    return DiskError(f"cannot write {path}: {error.strerror or error}", hint=_WRITE_HINTS.get(error.errno or 0))


def fsync_dir(folder: Path) -> None:
    """Make the names in `folder` durable: a rename is on disk only once its folder is. Raises DiskError."""
    try:
        fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)
    except OSError as error:
        raise write_error(folder, error) from error


class AtomicFile:
    """A file that appears under its name only when it is complete and on disk.

    with AtomicFile(path) as out:
        out.write(b"...")

    Bytes go to a hidden `.part` file in the same folder; leaving the block flushes, syncs, renames over `path` and
    syncs the folder. An exception inside the block removes the `.part` file and leaves `path` as it was. OSErrors
    become `DiskError`. A failed sync is never retried: the kernel may have dropped the pages it could not write.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self.part = self.path.parent / f".{secrets.token_hex(8)}.part"
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            self._file = os.fdopen(os.open(self.part, flags, 0o666), "w+b")
        except OSError as error:
            raise write_error(self.path, error) from error

    def write(self, data: bytes | bytearray | memoryview) -> None:
        try:
            self._file.write(data)
        except OSError as error:
            raise write_error(self.path, error) from error

    def overwrite(self, offset: int, data: bytes) -> None:
        """Replace bytes already written at `offset`; the next `write` goes on at the end."""
        try:
            self._file.seek(offset)
            self._file.write(data)
            self._file.seek(0, os.SEEK_END)
        except OSError as error:
            raise write_error(self.path, error) from error

    def tell(self) -> int:
        return self._file.tell()

    def sync(self) -> None:
        """Put everything written so far on disk."""
        try:
            self._file.flush()
            os.fsync(self._file.fileno())
        except OSError as error:
            raise write_error(self.path, error) from error

    def __enter__(self) -> AtomicFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self._commit()
                return
        except BaseException:
            self._discard()
            raise
        self._discard()

    def _commit(self) -> None:
        self.sync()
        try:
            self._file.close()
            os.replace(self.part, self.path)
            fsync_dir(self.path.parent)
        except OSError as error:
            raise write_error(self.path, error) from error

    def _discard(self) -> None:
        """Close and remove the `.part` file. An error here would hide the one that led here."""
        with contextlib.suppress(OSError):  # the bytes that could not be flushed are being thrown away
            self._file.close()
        with contextlib.suppress(OSError):
            self.part.unlink()


def write_atomic(path: Path | str, data: bytes | Iterable[bytes]) -> None:
    """Write `data` to `path`, crash-safely: afterwards `path` holds all of it or what it held before.

    Raises DiskError.
    """
    with AtomicFile(path) as out:
        for chunk in (data,) if isinstance(data, bytes) else data:
            out.write(chunk)


class AppendFile:
    """A file that only grows: after `append` returns, the bytes are on disk. Raises DiskError."""

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            self._file = os.fdopen(os.open(self.path, flags, 0o666), "ab", buffering=0)
            fsync_dir(self.path.parent)
        except OSError as error:
            raise write_error(self.path, error) from error

    def append(self, data: bytes) -> None:
        """Add `data` at the end. After an error the file may hold a part of it."""
        try:
            rest = memoryview(data)
            while rest:
                rest = rest[self._file.write(rest) :]
            os.fsync(self._file.fileno())
        except OSError as error:
            raise write_error(self.path, error) from error

    def close(self) -> None:
        try:
            self._file.close()
        except OSError as error:
            raise write_error(self.path, error) from error


def remove_file(path: Path) -> None:
    """Remove a file, durably; one that is not there is fine. Raises DiskError."""
    try:
        path.unlink()
        fsync_dir(path.parent)
    except FileNotFoundError:
        return
    except OSError as error:
        raise write_error(path, error) from error


def make_folder(path: Path) -> None:
    """Make a folder (and its parents), durably; one that is there is fine. Raises DiskError."""
    try:
        missing = [folder for folder in (path, *path.parents) if not folder.exists()]
        for folder in reversed(missing):
            folder.mkdir(exist_ok=True)
            fsync_dir(folder.parent)
    except OSError as error:
        raise write_error(path, error) from error
    if not path.is_dir():
        raise DiskError(f"{path} is a file, not a folder", hint="choose another folder")


def remove_folder(path: Path) -> None:
    """Remove an empty folder, durably; one that is not there, or that somebody fills, is fine. Raises DiskError."""
    try:
        path.rmdir()
        fsync_dir(path.parent)
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.ENOTEMPTY, errno.EEXIST):
            raise write_error(path, error) from error


@contextlib.contextmanager
def no_empty_folders(folder: Path) -> Iterator[None]:
    """Of `folder` and its parents, those made inside the block that are empty at its end are removed again."""
    missing = [each for each in (folder, *folder.parents) if not os.path.exists(each)]  # never an OSError
    try:
        yield
    finally:
        for each in missing:
            with contextlib.suppress(DiskError):  # an empty folder is no harm, and an error here would hide another
                remove_folder(each)


def read_error(path: Path, error: OSError) -> CheckpointError | DiskError:
    """The typed error for an OSError met while opening or reading `path`."""
    if isinstance(error, FileNotFoundError):
        return CheckpointError(f"{path} does not exist", hint="check the path, or download the file again")
    if isinstance(error, PermissionError):
        return CheckpointError(f"{path} may not be read: permission denied", hint="check who owns the file")
    if error.errno == errno.EIO:
        return DiskError(f"cannot read {path}: {error.strerror}", hint=_WRITE_HINTS[errno.EIO])
    return CheckpointError(f"cannot read {path}: {error.strerror or error}", hint="check the path")


def open_regular(path: Path) -> int:
    """A read-only descriptor of a regular file.

    A folder, pipe or device is a CheckpointError and is never read from.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise read_error(path, error) from error
    except ValueError as error:
        raise CheckpointError(f"{path!r} is not a usable path: {error}", hint="check the path") from error
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise CheckpointError(f"{path} is not a regular file", hint="give the path of a file")
    return fd


def sha256_file(path: Path | str) -> str:
    """The sha256 of a file's bytes, in hex."""
    path = Path(path)
    with os.fdopen(open_regular(path), "rb") as file:
        try:
            return hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            raise read_error(path, error) from error


def read_limited(path: Path, limit_bytes: int) -> bytes:
    """The bytes of a regular file that must not be longer than `limit_bytes`."""
    with os.fdopen(open_regular(path), "rb") as file:
        try:
            data = file.read(limit_bytes + 1)
        except OSError as error:
            raise read_error(path, error) from error
    if len(data) > limit_bytes:
        raise CheckpointError(
            f"{path} is larger than {limit_bytes} bytes, the most that is read of such a file",
            hint=_RESTORE,
        )
    return data


def read_json(path: Path | str, limit_bytes: int = JSON_LIMIT_BYTES, limit_depth: int = JSON_LIMIT_DEPTH) -> Any:
    """Parse a JSON file strictly: UTF-8, no repeated keys, only finite numbers, bounded size and depth.

    Raises CheckpointError.
    """
    path = Path(path)
    try:
        value = parse_json(read_limited(path, limit_bytes))
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is not valid JSON: {error}", hint=_RESTORE) from error
    if _depth(value) > limit_depth:
        raise CheckpointError(f"{path} is nested more than {limit_depth} levels deep", hint=_RESTORE)
    return value


def parse_json(data: bytes) -> Any:
    """Strict JSON (see `read_json`) from bytes. Raises ValueError or RecursionError."""
    return json.loads(
        data.decode("utf-8"), object_pairs_hook=unique_keys, parse_constant=_no_constant, parse_float=_finite
    )


def unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An `object_pairs_hook` that refuses a repeated key with ValueError; json's own behaviour is to keep the last."""
    result = dict(pairs)
    if len(result) != len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise ValueError(f"the key {key!r:.200} appears twice")
            seen.add(key)
    return result


def _no_constant(text: str) -> float:
    raise ValueError(f"{text} is not a JSON number")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text} is out of range")
    return value


def _depth(value: object) -> int:
    """Levels of nested lists and objects; iterative, so that depth costs no stack."""
    depth, level = 0, [value]
    while level := [child for item in level for child in _children(item)]:
        depth += 1
    return depth


def _children(item: object) -> Iterator[object]:
    if isinstance(item, dict):
        yield from item.values()
    elif isinstance(item, list):
        yield from item


def safe_member(folder: Path, name: object) -> Path:
    """The regular file `name` directly inside `folder`, for names that come from a file and are not trusted.

    Only a plain name is taken. A link is followed inside the folder, or out of it where the folder is a download
    cache's `<repo>/snapshots/<revision>/...` and the link leads to `<repo>/blobs/`. Raises CheckpointError.
    """
    if not isinstance(name, str) or not _is_plain_name(name):
        raise CheckpointError(f"{folder} refers to {name!r:.200}, which is not the plain name of a file beside it")
    path = folder / name
    try:
        target = path.resolve(strict=True)
    except FileNotFoundError as error:
        raise CheckpointError(f"{path} is missing", hint="download it again: the set of files is incomplete") from error
    except (OSError, RuntimeError) as error:
        raise CheckpointError(f"{path} cannot be followed: {error}") from error
    if target.parent not in _allowed_folders(folder):
        raise CheckpointError(f"{path} leads out of its folder, to {target}", hint="put a copy of the file there")
    if not target.is_file():
        raise CheckpointError(f"{path} is not a regular file")
    return path


def _is_plain_name(name: str) -> bool:
    return 0 < len(name) <= 255 and name not in (".", "..") and name.isprintable() and not set(name) & set('/\\:*?"<>|')


def _allowed_folders(folder: Path) -> set[Path]:
    folder = folder.resolve()
    caches = {parent.parent / "blobs" for parent in folder.parents if parent.name == "snapshots"}
    return {folder, *caches}
