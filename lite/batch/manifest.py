"""manifest.json of a batch: every prompt with its seed, file, state and time, kept true while the batch runs.

It is replaced whole after every video, so that whenever the process is killed the last one is there and complete.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, get_args

from ...errors import CheckpointError, HvliteError
from ...files import read_json, write_atomic

NAME = "manifest.json"
SCHEMA, SCHEMA_VERSION = "hvlite-batch", 1
LIMIT_BYTES = 256 << 20
State = Literal["waiting", "done", "failed"]


@dataclass(frozen=True)
class Entry:
    """A video: the prompt's number in the file, where it goes, how it stands. `seconds`: None until it is made."""

    number: int
    prompt: str
    seed: int
    output: str
    state: State = "waiting"
    seconds: float | None = None
    error: str | None = None
    settings: dict[str, Any] = field(default_factory=dict)


class Manifest:
    """The entries of a batch in the folder of its videos."""

    def __init__(self, folder: Path, prompts: str, base_seed: int, entries: Sequence[Entry]) -> None:
        """`prompts`: the name of their file. `base_seed`: prompt n gets base_seed + n - 1 where it names none."""
        self.path = folder / NAME
        self.prompts, self.base_seed = prompts, base_seed
        self.entries = list(entries)
        self.machine: dict[str, Any] = {}

    def update(self, index: int, **changes: Any) -> None:
        """Change an entry and put the whole file on disk. Raises DiskError."""
        self.entries[index] = replace(self.entries[index], **changes)
        self.write()

    def write(self) -> None:
        """Put it on disk. Raises DiskError."""
        text = json.dumps(self.to_json(), indent=1, ensure_ascii=False)
        write_atomic(self.path, text.encode("utf-8", "backslashreplace") + b"\n")

    def to_json(self) -> dict[str, Any]:
        """What the file holds."""
        seconds = [entry.seconds for entry in self.entries if entry.seconds is not None]
        return {
            "schema": SCHEMA,
            "schema_version": SCHEMA_VERSION,
            "prompts": self.prompts,
            "base_seed": self.base_seed,
            **self.counts(),
            "seconds": round(sum(seconds), 3),
            "machine": self.machine,
            "videos": [asdict(entry) for entry in self.entries],
        }

    def counts(self) -> dict[str, int]:
        """How many are done, failed, waiting."""
        states: tuple[State, ...] = ("done", "failed", "waiting")
        return {state: sum(entry.state == state for entry in self.entries) for state in states}


@dataclass(frozen=True)
class Earlier:
    """What an earlier run of the batch noted: its prompts' file, its seed, and each video."""

    prompts: str = ""
    base_seed: int | None = None
    videos: tuple[Entry, ...] = ()

    @property
    def seconds(self) -> dict[str, float]:
        """The time each file took, by its name."""
        return {video.output: video.seconds for video in self.videos if video.seconds is not None}


def read_earlier(folder: Path) -> Earlier:
    """The manifest that lies in `folder`. CheckpointError where something else has that name."""
    path = folder / NAME
    if not path.exists():
        return Earlier()
    try:
        value = read_json(path, limit_bytes=LIMIT_BYTES)
        if value["schema"] != SCHEMA or value["schema_version"] != SCHEMA_VERSION:
            raise ValueError(f"schema {value['schema']!r} {value['schema_version']!r}")
        return Earlier(str(value["prompts"]), int(value["base_seed"]), tuple(map(_entry, value["videos"])))
    except (HvliteError, KeyError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"{path} is not the manifest of a batch: {error}", hint="move it away, or choose another --save-path"
        ) from None


def _entry(value: dict[str, Any]) -> Entry:
    """A video as a manifest has it. KeyError, TypeError or ValueError where it is none."""
    took, output = value["seconds"], str(value["output"])
    if "/" in output or value["state"] not in get_args(State):
        raise ValueError(f"the video {output!r:.80} in the state {value['state']!r:.20}")
    return Entry(
        number=int(value["number"]),
        prompt=str(value["prompt"]),
        seed=int(value["seed"]),
        output=output,
        state=value["state"],
        seconds=None if took is None else float(took),
    )
