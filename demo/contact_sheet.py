"""The README's picture: five frames of twelve prompts, a row each: `python -m hvlite.demo.contact_sheet`."""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from torch import Tensor

from ..lite.output.pictures import contact_sheet, write_png
from ..lite.pipeline import Pipeline, load

PROMPTS = (
    "a red circle moves to the right",
    "a large blue star moves up",
    "a small green square grows",
    "a yellow triangle bounces up and down",
    "a purple circle moves to the left on a black background",
    "a big orange square stands still",
    "a cyan star drifts to the bottom right",
    "a white triangle shrinks on a navy background",
    "a small red star moves down",
    "a large green circle moves to the top left",
    "a blue square moves up on a beige and pink background",
    "an orange triangle moves to the upper right",
)
SHOWN = 5  # frames of a video
ZOOM = 2


def row(pipeline: Pipeline, prompt: str, seed: int) -> list[Tensor]:
    """Evenly spaced frames of one video, enlarged: uint8 [H, W, 3] each."""
    frames = pipeline.generate(prompt, seed=seed).frames
    picked = torch.linspace(0, len(frames) - 1, SHOWN).round().long()
    return [frames[i].repeat_interleave(ZOOM, 0).repeat_interleave(ZOOM, 1) for i in picked.tolist()]


def main() -> None:
    """Parse the arguments and run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, help="another model than the shipped one")
    parser.add_argument("--out", type=Path, default=Path("contact_sheet.png"))
    args = parser.parse_args()
    pipeline = load(args.model, device="cpu", keep_loaded=True)
    frames = [frame for seed, prompt in enumerate(PROMPTS) for frame in row(pipeline, prompt, seed)]
    write_png(args.out, contact_sheet(frames, 2 * SHOWN))


if __name__ == "__main__":
    main()
