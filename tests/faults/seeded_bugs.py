"""Bugs a crash-safe writer could have, each planted into the real code: the harness must notice every one of them."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from scenarios import sha256

from hvlite import files
from hvlite.files import AppendFile, AtomicFile
from hvlite.quantize import convert, journal, output, pipeline
from hvlite.quantize.journal import FileRecord, Journal
from hvlite.quantize.output import OutputFolder
from hvlite.quantize.writer import Written, write_safetensors

Patch = pytest.MonkeyPatch


def _typed(commit: Callable[[Any], None]) -> Callable[[Any], None]:
    """Errors as the real method raises them, so that a bug is not noticed for another one."""

    def stand_in(self: Any) -> None:
        try:
            commit(self)
        except OSError as error:
            raise files.write_error(self.path, error) from error

    return stand_in


def no_sync_before_rename(patch: Patch) -> None:
    patch.setattr(AtomicFile, "sync", _typed(lambda self: self._file.flush()))


def sync_after_rename(patch: Patch) -> None:
    def commit(self: Any) -> None:
        self._file.flush()
        os.replace(self.part, self.path)
        os.fsync(self._file.fileno())
        self._file.close()
        files.fsync_dir(self.path.parent)

    patch.setattr(AtomicFile, "_commit", _typed(commit))


def no_folder_sync(patch: Patch) -> None:
    for module in (files, output):
        patch.setattr(module, "fsync_dir", lambda folder: None)


def written_in_place(patch: Patch) -> None:
    def make(self: Any, path: Path | str) -> None:
        self.path = self.part = Path(path)
        _typed(open_it)(self)

    def open_it(self: Any) -> None:
        self._file = os.fdopen(os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_TRUNC), "w+b")

    patch.setattr(AtomicFile, "__init__", make)


def manifest_before_report(patch: Patch) -> None:
    real = files.write_atomic
    held: list[tuple[Path, bytes]] = []

    def write(path: Path, data: bytes) -> None:
        if path.name == "report.json":
            held[:] = [(path, data)]
            return
        real(path, data)
        if path.name == "hvlite.json":
            real(*held[0])

    patch.setattr(convert, "write_atomic", write)


def there_means_done(patch: Patch) -> None:
    """On resume every file that is there counts as finished."""
    real = OutputFolder._forget_damaged

    def trust(self: Any, pool: Any) -> None:
        real(self, pool)
        for path in sorted(self.root.glob("*/*")):
            name = path.relative_to(self.root).as_posix()
            if path.parent.name == "transformer" and name not in self.journal.records:
                self.journal.records[name] = FileRecord(name, path.stat().st_size, files.sha256_file(path))

    patch.setattr(OutputFolder, "_forget_damaged", trust)


def no_hash_on_resume(patch: Patch) -> None:
    def same_size(self: Any, record: FileRecord) -> bool:
        path: Path = self.root / record.path
        return path.is_file() and path.stat().st_size == record.nbytes

    patch.setattr(OutputFolder, "_is_good", same_size)


def torn_tail_kept(patch: Patch) -> None:
    """New lines are added behind a line that a crash cut short."""
    real = Journal.begin

    def begin(self: Any, header: Any) -> None:
        if self.header is None:
            real(self, header)
        else:
            self._file = AppendFile(self.path)

    patch.setattr(Journal, "begin", begin)


def no_checksum_in_journal(patch: Patch) -> None:
    def parse(raw: bytes) -> Any:
        with contextlib.suppress(ValueError):
            return files.parse_json(raw)

    patch.setattr(journal, "_checked", parse)


def journal_before_rename(patch: Patch) -> None:
    held: list[AtomicFile] = []
    real_commit, real_append = AtomicFile._commit, Journal.append

    def commit(self: Any) -> None:
        if self.path.suffix == ".safetensors":
            self.sync()
            held.append(self)
        else:
            real_commit(self)

    def append(self: Any, record: FileRecord) -> None:
        real_append(self, record)
        while held:
            real_commit(held.pop())

    patch.setattr(AtomicFile, "_commit", commit)
    patch.setattr(Journal, "append", append)


def journal_not_synced(patch: Patch) -> None:
    def append(self: Any, data: bytes) -> None:
        _typed(lambda self: self._file.write(data))(self)

    patch.setattr(AppendFile, "append", append)


def journal_gone_before_manifest(patch: Patch) -> None:
    real = files.write_atomic

    def write(path: Path, data: bytes) -> None:
        if path.name == "hvlite.json":
            files.remove_file(path.parent / ".quantize" / "journal.jsonl")
        real(path, data)

    patch.setattr(convert, "write_atomic", write)


def old_manifest_goes_last(patch: Patch) -> None:
    """Replacing a finished folder takes its files away while hvlite.json still names them."""
    real_remove, real_all = files.remove_file, OutputFolder._remove
    held: list[Path] = []

    def remove(path: Path) -> None:
        if path.name == "hvlite.json":
            held.append(path)
        else:
            real_remove(path)

    def remove_all(self: Any, names: list[str]) -> None:
        real_all(self, names)
        while held:
            real_remove(held.pop())

    patch.setattr(output, "remove_file", remove)
    patch.setattr(OutputFolder, "_remove", remove_all)


def leftovers_not_swept(patch: Patch) -> None:
    def nothing(root: Path) -> Iterator[Path]:
        yield from ()

    patch.setattr(output, "_leftovers", nothing)


def lock_ignored(patch: Patch) -> None:
    patch.setattr(fcntl, "flock", lambda fd, operation: None)


def other_settings_mixed(patch: Patch) -> None:
    """Resuming takes the files of a run with other settings."""
    real = OutputFolder.begin

    def begin(self: Any, settings: Any, plan: Any, **options: Any) -> None:
        if self.journal.header:
            self.journal.header = {**self.journal.header, "settings": settings}
        real(self, settings, plan, **options)

    patch.setattr(OutputFolder, "begin", begin)


def _unbuffered(write: Callable[[int, Any], None]) -> Callable[[Any, Any], None]:
    """A `write` of AtomicFile past its buffer."""

    def stand_in(self: Any, data: Any) -> None:
        _typed(lambda self: self._file.flush())(self)
        _typed(lambda self: write(self._file.fileno(), memoryview(data).cast("B")))(self)
        self._file.seek(0, os.SEEK_END)

    return stand_in


def full_disk_swallowed(patch: Patch) -> None:
    def write(fd: int, data: memoryview) -> None:
        with contextlib.suppress(OSError):
            while data:
                data = data[os.write(fd, data) :]

    patch.setattr(AtomicFile, "write", _unbuffered(write))


def short_write_ignored(patch: Patch) -> None:
    def write(fd: int, data: memoryview) -> None:
        os.write(fd, data)

    patch.setattr(AtomicFile, "write", _unbuffered(write))


def sync_error_ignored(patch: Patch) -> None:
    def sync(self: Any) -> None:
        self._file.flush()
        with contextlib.suppress(OSError):
            os.fsync(self._file.fileno())

    patch.setattr(AtomicFile, "sync", _typed(sync))


def sync_tried_again(patch: Patch) -> None:
    """The second sync succeeds, though the kernel dropped the pages when the first one failed."""

    def sync(self: Any) -> None:
        self._file.flush()
        try:
            os.fsync(self._file.fileno())
        except OSError:
            os.fsync(self._file.fileno())

    patch.setattr(AtomicFile, "sync", _typed(sync))


def close_error_ignored(patch: Patch) -> None:
    def commit(self: Any) -> None:
        self.sync()
        with contextlib.suppress(OSError):
            self._file.close()
        os.replace(self.part, self.path)
        files.fsync_dir(self.path.parent)

    patch.setattr(AtomicFile, "_commit", _typed(commit))


def length_before_data(patch: Patch) -> None:
    """The header's length is in the file from the start, so a half of it passes for weights."""
    real = AtomicFile.write

    def write(self: Any, data: Any) -> None:
        if bytes(data[:9]) == bytes(8) + b"{":
            data = (len(data) - 8).to_bytes(8, "little") + bytes(data[8:])
        real(self, data)

    patch.setattr(AtomicFile, "write", write)


def hash_of_other_bytes(patch: Patch) -> None:
    """The hash is taken while the length field is still zero: of what was meant once, not of what was written."""
    real = write_safetensors

    def write(path: Path, *args: Any) -> Written:
        written = real(path, *args)
        return Written(written.nbytes, sha256(bytes(8) + path.read_bytes()[8:]))

    patch.setattr(pipeline, "write_safetensors", write)


@dataclass(frozen=True)
class Catch:
    """What must notice a bug (faults or power losses over one conversion, bit rot, or a rival run); and its words."""

    by: str
    conversion: str
    saying: str


CAUGHT_BY: dict[Callable[[Patch], None], Catch] = {
    no_sync_before_rename: Catch("power loss", "new", "neither the old file nor the new one"),
    sync_after_rename: Catch("power loss", "new", "neither the old file nor the new one"),
    no_folder_sync: Catch("power loss", "new", "done, but hvlite.json is missing"),
    journal_not_synced: Catch("power loss", "new", "were kept"),
    written_in_place: Catch("faults", "replaced", "neither the old file nor the new one"),
    manifest_before_report: Catch("faults", "new", "hvlite.json names report.json, which is missing"),
    torn_tail_kept: Catch("faults", "resumed", "were kept"),
    journal_before_rename: Catch("faults", "new", "too early"),
    journal_gone_before_manifest: Catch("faults", "new", "were kept"),
    old_manifest_goes_last: Catch("faults", "replaced", "which is missing"),
    leftovers_not_swept: Catch("faults", "new", "the next run failed"),
    full_disk_swallowed: Catch("faults", "new", "went on as if nothing had happened"),
    short_write_ignored: Catch("faults", "new", "which is another file"),
    sync_error_ignored: Catch("faults", "new", "went on as if nothing had happened"),
    sync_tried_again: Catch("faults", "new", "neither the old file nor the new one"),
    close_error_ignored: Catch("faults", "new", "went on as if nothing had happened"),
    length_before_data: Catch("faults", "new", "is incomplete, but has its length field"),
    hash_of_other_bytes: Catch("faults", "new", "which is another file"),
    there_means_done: Catch("faults", "new", "has other bytes"),
    no_hash_on_resume: Catch("bit rot", "new", "has other bytes"),
    no_checksum_in_journal: Catch("bit rot", "new", "journal.jsonl"),
    lock_ignored: Catch("rival", "new", "two runs wrote into one folder"),
    other_settings_mixed: Catch("rival", "new", "took over the files"),
}
