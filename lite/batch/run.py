"""Makes the videos of a batch: every prompt is checked, then embedded, then each video is made and noted.

The text encoders are loaded once for all. A prompt that is wrong, or a video that fails, is noted and the next one is
made; a full disk and Ctrl-C end the batch, and the same command goes on where it stopped.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...errors import BatchFailedError, ConfigError, DiskError, HvliteError, InterruptedRunError
from ..config import draw_seed
from ..durations import duration
from ..events import Listener, Note
from ..interrupt import StopFlag
from ..launch import device_to_oneself
from ..request.damage import point_to_verify
from ..request.naming import chosen_name
from ..request.options import GenerateOptions
from ..request.preflight import Prepared, prepare
from .folder import check_same_batch
from .manifest import Entry, Manifest, read_earlier
from .prompts import BatchRow

if TYPE_CHECKING:
    from ..guidance import Conditioning
    from ..pipeline import Pipeline

GO_ON = "the same command goes on from there"


@dataclass(frozen=True)
class Batch:
    """What is to be made: the checked requests by the index of their entry, and the manifest."""

    manifest: Manifest
    prepared: dict[int, Prepared]
    notes: tuple[str, ...]

    @property
    def left(self) -> list[int]:
        """Indices of the videos that are not there yet."""
        return [index for index, each in self.prepared.items() if not each.before.done]


def prepare_batch(prompts: Path, rows: Sequence[BatchRow], folder: Path, options: GenerateOptions) -> Batch:
    """Check every prompt. `options` holds what they share. Nothing is written.

    ConfigError where the folder has the manifest of other videos: it would be lost.
    """
    earlier = read_earlier(folder)
    base = options.seed if options.seed is not None else earlier.base_seed
    base = draw_seed() if base is None else base
    entries: list[Entry] = []
    prepared: dict[int, Prepared] = {}
    notes: dict[str, None] = {}
    for index, row in enumerate(rows):
        seed = base + index if row.seed is None else row.seed
        name = f"{row.number:04d}_{chosen_name(row.prompt, seed, _suffix(options))}"
        entry = Entry(row.number, row.prompt, seed, name)
        try:
            each, told = _prepare_row(row, seed, folder / name, options)
            notes.update(dict.fromkeys(told))
            prepared[index] = each
            settings = {key: value for key, value in each.request.config.to_json().items() if key != "prompt"}
            done = each.before.done
            entry = replace(entry, settings=settings, state="done" if done else "waiting")
            entry = replace(entry, seconds=earlier.seconds.get(name) if done else None)
        except DiskError:
            raise
        except HvliteError as error:
            entry = replace(entry, state="failed", error=str(error))
        entries.append(entry)
    check_same_batch(folder, earlier, prompts.name, entries)
    return Batch(Manifest(folder, prompts.name, base, entries), prepared, tuple(notes))


def _suffix(options: GenerateOptions) -> str:
    return "" if options.png else ".mkv" if options.lossless else ".mp4"


def _prepare_row(row: BatchRow, seed: int, output: Path, options: GenerateOptions) -> tuple[Prepared, list[str]]:
    if row.problem:
        raise ConfigError(row.problem, hint="correct the file and run the same command again")
    given: dict[str, Any] = {
        "prompt": row.prompt,
        "seed": seed,
        "output": output,
        "resume": True,
        "frames": row.frames,
        "steps": row.steps,
        "guidance": row.guidance,
        "neg_prompt": row.negative_prompt,
    }
    given = {name: value for name, value in given.items() if value is not None}
    if row.height is not None:
        given |= {"video_size": (row.height, row.width), "resolution": None, "aspect": None}
    ((prepared,), notes) = prepare(replace(options, **given), makes_folder=True)
    return prepared, notes


def run_batch(batch: Batch, on_event: Listener, stop: StopFlag) -> None:
    """Make what is left. Raises BatchFailedError where a prompt or a video failed, InterruptedRunError on request."""
    manifest = batch.manifest
    manifest.write()
    for entry in manifest.entries:
        if entry.state == "failed":
            on_event(Note("warning", f"prompt {entry.number}: {entry.error}"))
    if batch.left:
        request = batch.prepared[batch.left[0]].request
        command = f"batch {manifest.prompts}"
        with (
            device_to_oneself(request.device, command, on_event, stop, wait=request.wait),
            point_to_verify(request.model),
        ):
            _make_all(batch, on_event, stop)
    counts = manifest.counts()
    on_event(Note("info", f"{counts['done']} of {len(manifest.entries)} videos are done, {counts['failed']} failed"))
    if counts["failed"]:
        raise BatchFailedError(
            f"{counts['failed']} of {len(manifest.entries)} prompts failed; {manifest.path} says why",
            hint="the same command tries these again",
        )


def _make_all(batch: Batch, on_event: Listener, stop: StopFlag) -> None:
    from ..job import open_pipeline
    from .embedded import embed_prompts

    first = batch.prepared[batch.left[0]].request
    pipeline = open_pipeline(first, on_event)
    batch.manifest.machine = {
        "model": pipeline.card.name,
        "model_fingerprint": pipeline.fingerprint,
        "device": pipeline.parts.device.name,
    }
    configs = {index: batch.prepared[index].request.config for index in batch.left}
    try:
        embedded, problems = embed_prompts(pipeline, configs, on_event, stop)
    except KeyboardInterrupt:
        raise InterruptedRunError("left before the first video", hint=GO_ON) from None
    for index, problem in problems.items():
        batch.manifest.update(index, state="failed", error=problem)
    progress = Progress(len(batch.manifest.entries), len(configs) - len(problems))
    for index in configs:
        if index not in problems:
            on_event(Note("info", progress.line(batch.manifest.entries[index])))
            _make_one(batch, index, pipeline, embedded.pop(index), on_event, stop)
            progress.video_over()


def _make_one(
    batch: Batch, index: int, pipeline: Pipeline, conditioning: Conditioning, on_event: Listener, stop: StopFlag
) -> None:
    """One video; whatever goes wrong with it alone is noted and does not end the batch."""
    from ..job import run_generate

    manifest, began = batch.manifest, time.monotonic()
    try:
        if stop.requested:
            raise InterruptedRunError("stopped")
        prepared = batch.prepared[index]
        # Every request may resume; where there is nothing to go on from, the run need not say so.
        request = replace(prepared.request, resume=prepared.before.step is not None)
        with point_to_verify(request.model):
            made = run_generate(request, on_event, stop, pipeline=pipeline, conditioning=conditioning)
        manifest.update(index, state="done", seconds=round(made.seconds, 3), error=None)
    except (InterruptedRunError, KeyboardInterrupt):
        where = f"stopped at video {manifest.entries[index].number} of {len(manifest.entries)}"
        raise InterruptedRunError(f"{where}; what is done is in {manifest.path.parent}", hint=GO_ON) from None
    except DiskError:
        raise
    except Exception as error:  # noqa: BLE001  # a bug that one prompt meets must not cost the others
        text = str(error) if isinstance(error, HvliteError) else f"{type(error).__name__}: {error}"
        manifest.update(index, state="failed", seconds=round(time.monotonic() - began, 3), error=text)
        on_event(Note("warning", f"video {manifest.entries[index].number} failed: {text}"))


class Progress:
    """How far the batch is, and how long it will take: the mean of the videos of this run."""

    def __init__(self, total: int, left: int) -> None:
        self._total, self._left, self._made = total, left, 0
        self._began = time.monotonic()

    def line(self, entry: Entry) -> str:
        """What is said before a video."""
        text = f"video {entry.number} of {self._total}, seed {entry.seed}: {entry.prompt[:60]}"
        if not self._made:
            return text
        seconds = (time.monotonic() - self._began) / self._made * self._left
        return f"{text} ({self._left} left, about {duration(seconds)})"

    def video_over(self) -> None:
        """One is made, or failed."""
        self._made += 1
        self._left -= 1
