"""The folder a conversion writes: locked, swept, resumed, finished. A folder without hvlite.json is not a model."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Mapping
from concurrent.futures import Executor
from pathlib import Path
from types import TracebackType
from typing import Any

from ..errors import CheckpointError, ConfigError, DiskError
from ..files import fsync_dir, make_folder, remove_file, remove_folder, sha256_file
from .format import MANIFEST, PICTURE, REPORT, Manifest, read_manifest
from .journal import FileRecord, FolderLock, Journal
from .plan import FilePlan
from .readers.unfinished import WORK_FOLDER

_PART = re.compile(r"\.[0-9a-f]{16}\.part")
_FOLDERS = ("transformer", "text_encoder", "text_encoder_2", "vae", "tokenizer", "tokenizer_2")


class OutputFolder:
    """An output folder that this process alone writes to, inside a `with`. What is finished outlives any end of it."""

    def __init__(self, root: Path) -> None:
        """Lock the folder, making it where it is not there, and remove what a killed run was writing."""
        self.root = root
        self.lock = FolderLock(root)
        try:
            for part in _leftovers(root):
                remove_file(part)
            self.journal = Journal(root)
        except BaseException:
            self.lock.release()
            raise

    def __enter__(self) -> OutputFolder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.journal.close()
            self._leave_no_trace()
            if not self.journal.path.exists():  # nothing was begun, or all is done: no trace is left
                self.lock.remove()
        finally:
            self.lock.release()

    def _leave_no_trace(self) -> None:
        """A run that was begun and finished no file, as on a full disk, leaves neither its journal nor its folders."""
        header = self.journal.header
        # Settings of None: a folder is being taken apart. A file without a record would be a stranger's.
        if header is None or header["settings"] is None or self.journal.records:
            return
        if not any((self.root / name).exists() for name in header["files"]):
            with contextlib.suppress(DiskError):  # the next run does it
                self.journal.discard()
                self._remove([])

    @property
    def records(self) -> Mapping[str, FileRecord]:
        return self.journal.records

    def finished(self, settings: Mapping[str, Any], *, force: bool) -> Manifest | None:
        """The manifest of a finished folder made with the same settings.

        With `force` a finished folder is taken apart and None is returned; other settings are a ConfigError without.
        """
        if not (self.root / MANIFEST).exists():
            return None
        manifest = _readable(self.root)
        if manifest is not None and not force and manifest.settings == settings:
            return manifest
        if not force:
            raise ConfigError(
                f"{self.root} holds a finished model{_difference(manifest, settings)}", hint="--force replaces it"
            )
        listed = [REPORT, PICTURE] if manifest is None else [*manifest.files, REPORT, PICTURE]
        self.journal.begin({"settings": None, "files": listed})  # or after a crash they would be a stranger's
        remove_file(self.root / MANIFEST)  # before the files: from here on it is not a model
        self._remove(listed)
        self.journal.discard()
        return None

    def begin(self, settings: Mapping[str, Any], files: list[FilePlan], *, resume: bool, pool: Executor) -> None:
        """Take over what an earlier run finished, or remove it. ConfigError for other settings or foreign files."""
        header = self.journal.header
        if header is not None and (not resume or header["settings"] is None):  # None: a folder is being taken apart
            self._remove(header["files"])
            self.journal.discard()
        elif header is not None and header["settings"] != settings:
            changed = ", ".join(_differing(header["settings"], settings))
            raise ConfigError(
                f"{self.root} holds an unfinished conversion with other settings ({changed})",
                hint="--no-resume starts anew, or choose another folder",
            )
        planned = [file.path for file in files]
        self._refuse_strangers({*planned, REPORT, PICTURE})
        self._forget_damaged(pool)
        self.journal.begin({"settings": settings, "files": planned})
        for folder in sorted({(self.root / path).parent for path in planned}):
            make_folder(folder)

    def _refuse_strangers(self, own: set[str]) -> None:
        for path in sorted(self.root.rglob("*")):
            name = path.relative_to(self.root).as_posix()
            if path.is_dir() and not path.is_symlink():
                continue
            if name not in own and not name.startswith(WORK_FOLDER):
                raise ConfigError(f"{self.root} holds other files ({name})", hint="choose a new or an empty folder")

    def _forget_damaged(self, pool: Executor) -> None:
        """Files whose bytes are not what the journal says are made again."""
        records = list(self.journal.records.values())
        for record, good in zip(records, pool.map(self._is_good, records), strict=True):
            if not good:
                del self.journal.records[record.path]

    def _is_good(self, record: FileRecord) -> bool:
        path = self.root / record.path
        try:
            return path.stat().st_size == record.nbytes and sha256_file(path) == record.sha256
        except (OSError, CheckpointError):
            return False

    def finish(self) -> None:
        """Remove journal and lock; hvlite.json is on disk."""
        self.journal.discard()
        self.lock.remove()
        fsync_dir(self.root)

    def _remove(self, names: list[str]) -> None:
        for name in names:
            if _is_own(name):
                remove_file(self.root / name)
        for folder in _FOLDERS:
            remove_folder(self.root / folder)


def _leftovers(root: Path) -> Iterator[Path]:
    """Files a killed run had not finished. Only names that AtomicFile makes are looked at."""
    for folder in (root, root / WORK_FOLDER, *(root / name for name in _FOLDERS)):
        if folder.is_dir():
            yield from [path for path in folder.iterdir() if _PART.fullmatch(path.name)]


def _is_own(name: object) -> bool:
    """Whether a path from a journal or manifest lies where this program writes; nothing else is ever removed."""
    folder, _, file = str(name).rpartition("/")
    return folder in ("", *_FOLDERS) and file not in ("", ".", "..")


def _readable(root: Path) -> Manifest | None:
    """The folder's manifest; None for a damaged one, or one of another version."""
    try:
        return read_manifest(root)
    except CheckpointError:
        return None


def _difference(manifest: Manifest | None, settings: Mapping[str, Any]) -> str:
    if manifest is None:
        return ", damaged or made by another version"
    return " with other settings: " + ", ".join(_differing(manifest.settings, settings))


def _differing(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    return [key for key in sorted({*one, *other}) if one.get(key) != other.get(key)]
