"""The state of a `generate` run as something to disturb: steps are saved, then the latents, then the folder goes.

The denoising is a stand-in of a few numbers; the files are written and read by the real code.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

import torch
from scenarios import Tree, differences, read_tree
from torch import Tensor

from hvlite.errors import CheckpointError
from hvlite.files import fsync_dir, write_atomic, write_error
from hvlite.lite.state.latents_file import read_latents
from hvlite.lite.state.run_state import RunState, peek_run

STEPS = 3
# What a run that dies after its video is done may leave beside it: nothing to go on with, and nothing large.
HARMLESS = ("cat.mp4.hvlite/", "cat.mp4.hvlite/lock", "cat.mp4.hvlite/run.json")
MODEL = "0123456789abcdef"
SETTINGS = {
    "prompt": "a red circle 猫",
    "seed": 1,
    "steps": STEPS,
    "guidance_scale": 6.0,
    "fps": 24,
    "negative_prompt": None,
}


def latents_after(step: int) -> Tensor:
    """What an undisturbed run has after so many steps."""
    latents = torch.linspace(-1, 1, 16 * 2 * 4 * 4).reshape(1, 16, 2, 4, 4)
    for index in range(step):
        latents = next_latents(latents, index)
    return latents


def next_latents(latents: Tensor, step: int) -> Tensor:
    return latents * 0.75 + step


def rename(partial: Path, output: Path) -> None:
    """As a finished video gets its name."""
    try:
        os.replace(partial, output)
        fsync_dir(output.parent)
    except OSError as error:
        raise write_error(output, error) from error


def video_of(latents: Tensor) -> bytes:
    return bytes(latents.contiguous().numpy().tobytes())


@dataclass
class GenerateRun:
    """A run that always resumes; `stop_after`: it is stopped when so many steps are saved."""

    name: str
    start: Tree = field(default_factory=dict)
    frozen: Path | None = None
    stop_after: int | None = None

    def run(self, folder: Path) -> int:
        """The steps that this run made itself."""
        output = folder / "cat.mp4"
        if output.exists() and peek_run(output) is None:
            return 0
        with RunState.open(output) as state:
            state.begin(SETTINGS, MODEL, resume=True)
            latents, made = state.load_latents(), 0
            if latents is None:
                first, latents = state.load_step() or (0, latents_after(0))
                for step in range(first, self.stop_after or STEPS):
                    latents, made = next_latents(latents, step), made + 1
                    state.save_step(step + 1, latents)
                if self.stop_after is not None:
                    return made
                state.save_latents(latents)
            partial = state.folder / "partial.mp4"
            write_atomic(partial, video_of(latents))
            rename(partial, output)
            state.finish(keep=False)
            return made

    def broken_rules(self, folder: Path) -> list[str]:
        """A saved step is that step's, bit for bit; so are the latents and the video. Nothing is ever half there."""
        state = folder / "cat.mp4.hvlite"
        wrong = [
            *self._bad_latents(state / "step.safetensors", range(1, STEPS + 1)),
            *self._bad_latents(state / "latents.safetensors", [STEPS]),
        ]
        video = folder / "cat.mp4"
        if video.exists() and video.read_bytes() != video_of(latents_after(STEPS)):
            wrong.append("the video has other bytes")
        return wrong + (["more than one .part file"] if len(list(folder.rglob("*.part"))) > 1 else [])

    def _bad_latents(self, path: Path, steps: range | list[int]) -> list[str]:
        if not path.exists():
            return []
        try:
            latents, note = read_latents(path)
        except CheckpointError as error:
            return [error.message]
        step = STEPS if note.step is None else note.step
        good = step in steps and torch.equal(latents, latents_after(step))
        return [] if good else [f"{path.name} does not hold the latents of step {step}"]

    def lost_when_done(self, folder: Path) -> list[str]:
        if self.stop_after is None:
            return _beside_the_video(folder)
        path = folder / "cat.mp4.hvlite" / "step.safetensors"
        return [] if path.exists() and read_latents(path)[1].step == self.stop_after else ["the last step is lost"]

    def unfinished(self, folder: Path, before: Tree, result: int) -> list[str]:
        if self.stop_after is not None:
            return self.lost_when_done(folder)
        return _beside_the_video(folder)


def _beside_the_video(folder: Path) -> list[str]:
    tree = {name: content for name, content in read_tree(folder).items() if name not in HARMLESS}
    return differences(tree, {"cat.mp4": video_of(latents_after(STEPS))})
