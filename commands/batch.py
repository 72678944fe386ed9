"""`hvlite batch`: a file of prompts, made one after the other."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from . import options as opt
from .running import print_plan, say, watched

if TYPE_CHECKING:
    from ..lite.batch.run import Batch

BATCH_HELP = """Make a video for each prompt of a file: one a line, or a .csv with a column called prompt.
A line that begins with # is a comment; in a .csv it is not.

hvlite batch prompts.csv --save-path videos

hvlite batch prompts.txt --save-path videos --model my-model --resolution 540p --frames 65 --seed 1

Columns seed, height, width, frames, steps, guidance and negative_prompt, where there, come before the options.
The same command goes on where a batch was stopped, and tries again what failed. manifest.json in the folder has every
prompt with its seed, file, time and state; other prompts or seeds want another folder. Exit code 1: some prompts
failed, the others are made."""

Prompts = Annotated[Path, typer.Argument(metavar="FILE", help="A text file, or a .csv with a column called prompt.")]
SavePath = Annotated[Path, typer.Option("--save-path", metavar="DIR", help="Where the videos go.", show_default=False)]
Seed = Annotated[
    int | None,
    typer.Option("--seed", metavar="N", help="Of the first prompt; the next has N+1. Left out: drawn, and kept."),
]


def batch(
    prompts: Prompts,
    save_path: SavePath,
    seed: Seed = None,
    neg_prompt: opt.NegPrompt = None,
    video_size: opt.VideoSize = None,
    resolution: opt.Resolution = None,
    aspect: opt.Aspect = None,
    frames: opt.Frames = None,
    fps: opt.Fps = None,
    steps: opt.Steps = None,
    guidance: opt.Guidance = None,
    cfg_scale: opt.CfgScale = None,
    flow_shift: opt.FlowShift = None,
    crf: opt.Crf = None,
    lossless: opt.Lossless = False,
    png: opt.Png = False,
    model: opt.Model = None,
    dit_weight: opt.DitWeight = None,
    model_config: opt.ModelConfig = None,
    use_fp8: opt.UseFp8 = False,
    vae_tiling: opt.VaeTiling = True,
    precision: opt.Precision = None,
    device: opt.Device = "auto",
    wait: opt.Wait = True,
    on_nonfinite: opt.OnNonfinite = "stop",
    vram_limit: opt.VramLimit = None,
    ram_limit: opt.RamLimit = None,
    tier: opt.Tier = "auto",
    linear: opt.Linear = "auto",
    attention: opt.Attention = "auto",
    prompt_cache: opt.PromptCache = True,
    threads: opt.Threads = None,
    json_lines: opt.JsonLines = False,
    dry_run: opt.DryRun = False,
    debug: opt.Debug = False,
) -> None:
    """See BATCH_HELP."""
    given = dict(locals())
    from ..lite.batch.folder import hold_folder
    from ..lite.batch.prompts import read_prompts
    from ..lite.batch.run import prepare_batch
    from ..lite.request.options import GenerateOptions
    from ..lite.request.output_checks import check_folder, check_path_text

    check_path_text(save_path, "--save-path")
    check_folder(save_path, makes_folder=True)
    for name in ("prompts", "save_path", "json_lines", "dry_run", "debug"):
        given.pop(name)
    rows, told = read_prompts(prompts)
    with contextlib.nullcontext() if dry_run else hold_folder(save_path):
        made = prepare_batch(prompts, rows, save_path, GenerateOptions(**given))
        if dry_run:
            _print_plans(made, [*told, *made.notes], json_lines=json_lines)
        else:
            _make(made, [*told, *made.notes], json_lines=json_lines)


def _make(made: Batch, notes: list[str], *, json_lines: bool) -> None:
    from ..lite.batch.run import run_batch
    from ..lite.events import Note

    with watched(json_lines=json_lines) as (display, stop):
        for text in notes:
            display.show(Note("info", text))
        try:
            run_batch(made, display.show, stop)
        finally:
            _print_end(made, json_lines=json_lines)


def _print_plans(made: Batch, notes: list[str], *, json_lines: bool) -> None:
    for entry in made.manifest.entries:
        if entry.error:
            say(
                json.dumps({"event": "problem", "number": entry.number, "message": entry.error})
                if json_lines
                else f"prompt {entry.number}: {entry.error}"
            )
    for prepared in made.prepared.values():
        print_plan(prepared, notes, json_lines=json_lines)


def _print_end(made: Batch, *, json_lines: bool) -> None:
    manifest = made.manifest
    if json_lines:
        say(json.dumps({"event": "batch", "manifest": str(manifest.path), **manifest.counts()}))
    else:
        say(manifest.path)
