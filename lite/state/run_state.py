"""The state folder of a run, `<output>.hvlite/`: what lets a killed or failed run go on where it stopped.

run.json             the settings and the model's fingerprint, written when the run begins
step.safetensors     the latents after the last finished step
latents.safetensors  the final latents, written before the decode starts; enough for `hvlite decode` on its own
preview.png          the last preview
partial.mp4          the video while it is being written (partial.mkv; partial for PNG frames)
lock                 held by the running process
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from ...errors import CheckpointError, ConfigError, DiskError
from ...files import read_json, remove_file, write_atomic
from ..output.encoding import SUFFIXES
from ..output.frame_folder import is_leftover, remove_frame_folder
from ..recovery.recoveries import Recoveries
from ..request.naming import state_folder_of
from ..settings import fingerprint, latent_settings, settings_differences, settings_to_text
from .latents_file import LatentsNote, read_latents, read_latents_note, write_latents
from .run_lock import LOCK_NAME, RunLock

if TYPE_CHECKING:
    import torch

RUN_NAME, STEP_NAME, LATENTS_NAME, PREVIEW_NAME = "run.json", "step.safetensors", "latents.safetensors", "preview.png"
PARTIAL_NAMES = tuple(f"partial{suffix}" for suffix in SUFFIXES.values())
_START_ANEW = "--force starts anew and drops the unfinished run"


@dataclass(frozen=True)
class UnfinishedRun:
    """What a state folder holds: settings, model, steps done (0: none), and whether only the decode is left."""

    settings: dict[str, Any]
    model_fingerprint: str
    step: int
    has_latents: bool

    def differences(self, settings: Mapping[str, Any], model_fingerprint: str) -> list[str]:
        """A line with both values for each thing the latents depend on that is another one now."""
        before = latent_settings(self.settings, self.model_fingerprint)
        return settings_differences(before, latent_settings(settings, model_fingerprint))


def peek_run(output: Path | str) -> UnfinishedRun | None:
    """The unfinished run of `output`; None where there is no work to go on from. Imports no torch, takes no lock.

    Raises CheckpointError where its files are damaged.
    """
    folder = state_folder_of(Path(output))
    has_step, has_latents = (folder / STEP_NAME).exists(), (folder / LATENTS_NAME).exists()
    if not has_step and not has_latents:
        return None
    try:
        step = read_latents_note(folder / STEP_NAME).step if has_step else None
        settings, model_fingerprint = _read_run(folder / RUN_NAME)
    except CheckpointError as error:
        raise CheckpointError(error.message, hint=_START_ANEW) from error
    return UnfinishedRun(settings, model_fingerprint, step or 0, has_latents)


class RunState:
    """The state folder of one output, held by this process until `close` or `finish`; use it in a `with`.

    Every write raises DiskError where the disk refuses; what was saved before stays. `recoveries`: what happened on the
    way to the latents that were loaded, and then on; it is saved with them.
    """

    def __init__(self, output: Path, lock: RunLock) -> None:
        self.output = output
        self.folder = state_folder_of(output)
        self._lock = lock
        self.recoveries = Recoveries()
        self._settings: dict[str, Any] = {}
        self._fingerprint = ""

    @classmethod
    def open(cls, output: Path | str) -> RunState:
        """Make the folder and take it. ConfigError where another process has it, DiskError where it cannot be made."""
        output = Path(output)
        return cls(output, RunLock.take(state_folder_of(output)))

    @property
    def run_path(self) -> Path:
        return self.folder / RUN_NAME

    @property
    def step_path(self) -> Path:
        return self.folder / STEP_NAME

    @property
    def latents_path(self) -> Path:
        return self.folder / LATENTS_NAME

    @property
    def preview_path(self) -> Path:
        return self.folder / PREVIEW_NAME

    def begin(self, settings: Mapping[str, Any], model_fingerprint: str, *, resume: bool = False) -> bool:
        """Start a run; true where `resume` found work of the same settings: ask `load_latents`, then `load_step`.

        Without `resume`, or without work to go on from, the folder is emptied. ConfigError names each setting that
        differs and that the latents depend on, and changes nothing; CheckpointError where the files are damaged.
        """
        found = peek_run(self.output) if resume else None
        if found is not None:
            self._refuse(found.differences(settings, model_fingerprint))
        self._remove(*(() if found else (STEP_NAME, LATENTS_NAME, PREVIEW_NAME, *PARTIAL_NAMES)))
        self._settings = dict(settings)
        self._fingerprint = fingerprint(settings, model_fingerprint)
        run = {"run": json.loads(settings_to_text(settings)), "model_fingerprint": model_fingerprint}
        write_atomic(self.run_path, json.dumps(run, indent=1).encode("ascii"))
        return found is not None

    def save_step(self, step: int, latents: torch.Tensor) -> None:
        """Keep the latents after `step` finished steps; until this is on disk, the step before it is."""
        self._save(self.step_path, latents, step)

    def load_step(self) -> tuple[int, torch.Tensor] | None:
        """Steps done and their latents, bit for bit; None where no step is kept. CheckpointError where damaged."""
        found = self._load(self.step_path)
        return None if found is None else (found[1].step or 0, found[0])

    def save_latents(self, latents: torch.Tensor) -> None:
        """Keep the final latents: before the decode, so that nothing that happens there costs a step."""
        self._save(self.latents_path, latents, None)

    def load_latents(self) -> torch.Tensor | None:
        """The final latents, bit for bit; None where the run did not get that far. CheckpointError where damaged."""
        found = self._load(self.latents_path)
        return None if found is None else found[0]

    def finish(self, *, keep: bool) -> None:
        """The video is done: remove the folder, or with `keep` all of it but the final latents and the settings."""
        self._remove(STEP_NAME, PREVIEW_NAME, *PARTIAL_NAMES)
        if not keep:
            self._remove(LATENTS_NAME, RUN_NAME)
        self._lock.release(remove=True)
        if not keep:
            with contextlib.suppress(OSError):  # not empty: somebody else's file is in it, or the next run
                self.folder.rmdir()

    def close(self) -> None:
        """Let the folder go with all that is in it; one into which nothing could be written goes away."""
        if not self._lock.is_held:
            return
        with contextlib.suppress(OSError, DiskError):  # the error that led here is the one to hear of
            if [path.name for path in self.folder.iterdir()] == [LOCK_NAME]:
                self._lock.release(remove=True)
                self.folder.rmdir()
        self._lock.release()

    def __enter__(self) -> RunState:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _refuse(self, differences: list[str]) -> None:
        if differences:
            raise ConfigError(
                f"{self.folder} belongs to a run with other settings: {'; '.join(differences)}",
                hint=f"use the same settings or another --output; {_START_ANEW}",
            )

    def _save(self, path: Path, latents: torch.Tensor, step: int | None) -> None:
        settings = self.recoveries.in_settings(self._settings)
        write_latents(path, latents, LatentsNote(settings, self._fingerprint, step))

    def _load(self, path: Path) -> tuple[torch.Tensor, LatentsNote] | None:
        if not path.exists():
            return None
        try:
            latents, note = read_latents(path)
        except CheckpointError as error:
            raise CheckpointError(error.message, hint=_START_ANEW) from error
        if note.fingerprint != self._fingerprint:
            raise CheckpointError(f"{path} belongs to a run with other settings", hint=_START_ANEW)
        self.recoveries = Recoveries.of(note.settings)
        return latents, note

    def _remove(self, *names: str) -> None:
        leftovers = [path for path in self.folder.iterdir() if is_leftover(path)]
        for path in [*leftovers, *(self.folder / name for name in names)]:
            if path.is_dir():
                remove_frame_folder(path)
            else:
                remove_file(path)


def _read_run(path: Path) -> tuple[dict[str, Any], str]:
    value = read_json(path)
    inner = value.get("run") if isinstance(value, dict) else None
    settings = inner.get("hvlite") if isinstance(inner, dict) else None
    if not isinstance(settings, dict) or not isinstance(value.get("model_fingerprint"), str):
        raise CheckpointError(f"{path} does not hold the settings of a run")
    return settings, value["model_fingerprint"]
