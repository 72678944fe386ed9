"""The folder of a batch: held by one run at a time, and left to the prompts whose videos it has. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from ...errors import ConfigError
from ...files import no_empty_folders
from ..request.naming import state_folder_of
from ..state.run_lock import RunLock
from .manifest import NAME, Earlier, Entry

LOCK_NAME = ".batch.lock"
SHOWN_CHARACTERS = 60


@contextmanager
def hold_folder(folder: Path) -> Iterator[None]:
    """Make the folder and keep every other batch out of it; one that stays empty is not left behind.

    ConfigError where another run holds it, DiskError where it cannot be made.
    """
    with no_empty_folders(folder):
        lock = RunLock.take(folder, name=LOCK_NAME, other="--save-path")
        try:
            yield
        finally:
            lock.release(remove=True)


def check_same_batch(folder: Path, earlier: Earlier, prompts: str, entries: Sequence[Entry]) -> None:
    """ConfigError where `entries` would take a video, or one that still waits, out of the manifest in `folder`.

    A file that only grew goes on, and so does one in which a prompt was corrected that failed before anything of its
    video was there. `prompts`: the name of the file.
    """
    now = {entry.number: entry for entry in entries}
    for before in earlier.videos:
        difference = _difference(folder, before, now.get(before.number))
        if difference:
            raise ConfigError(
                f"{folder / NAME} is of other videos (prompts from {earlier.prompts}): {difference} in {prompts}",
                hint="choose another --save-path; here goes on only a file that begins with the same prompts and seeds",
            )


def _difference(folder: Path, before: Entry, now: Entry | None) -> str:
    """What would be lost of an entry, in words; empty where nothing is."""
    output = folder / before.output
    begun = output.exists() or state_folder_of(output).exists()
    if before.state == "failed" and not begun:
        return ""
    if now is None:
        return f"prompt {before.number} is {_short(before.prompt)}, and there is none"
    if before.prompt != now.prompt:
        return f"prompt {before.number} is {_short(before.prompt)}, but {_short(now.prompt)}"
    if begun and before.output != now.output:
        return f"video {before.number} is {before.output}, but would be {now.output}"
    return ""


def _short(prompt: str) -> str:
    return repr(prompt if len(prompt) <= SHOWN_CHARACTERS else f"{prompt[:SHOWN_CHARACTERS]}...")
