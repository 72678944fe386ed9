"""`hvlite generate`: a video from a prompt."""

from __future__ import annotations

from typing import Any

import typer

from ..lite.request.official_flags import official_summary, take_official_flags
from . import options as opt
from .command import Command
from .running import run

NOTES = "hvlite.notes"

GENERATE_HELP = """Make a video from a prompt.

[bold]hvlite generate "a red circle moves to the right"[/bold] works as it is, with the small model that ships.

hvlite generate "a cat walks on the grass" --model ckpts --resolution 540p --aspect 9:16 --output cat.mp4

hvlite generate "a cat walks on the grass" --model ckpts --frames 65 --seed 7 --save-path videos --num-videos 3
"""

OFFICIAL_HELP = f"""The flags of the official command work as well. Of these, hvlite has the official value alone:
{official_summary()}. Any other value is refused with the reason."""


class GenerateCommand(Command):
    """`generate` as Typer parses it, after the official flags with one possible value are checked and taken out."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """The arguments that are left; what the flags have to say waits in the context."""
        left, ctx.meta[NOTES] = take_official_flags(args)
        return super().parse_args(ctx, left)


def generate(
    ctx: typer.Context,
    prompt_words: opt.PromptWords = None,
    prompt: opt.Prompt = None,
    prompt_file: opt.PromptFile = None,
    neg_prompt: opt.NegPrompt = None,
    seed: opt.Seed = None,
    num_videos: opt.NumVideos = 1,
    video_size: opt.VideoSize = None,
    resolution: opt.Resolution = None,
    aspect: opt.Aspect = None,
    frames: opt.Frames = None,
    fps: opt.Fps = None,
    steps: opt.Steps = None,
    guidance: opt.Guidance = None,
    cfg_scale: opt.CfgScale = None,
    flow_shift: opt.FlowShift = None,
    flow_reverse: opt.FlowReverse = True,
    output: opt.Output = None,
    save_path: opt.SavePath = None,
    save_path_suffix: opt.SavePathSuffix = "",
    name_suffix: opt.NameSuffix = "",
    crf: opt.Crf = None,
    lossless: opt.Lossless = False,
    png: opt.Png = False,
    preview: opt.Preview = False,
    preview_every: opt.PreviewEvery = None,
    force: opt.Force = False,
    resume: opt.Resume = None,
    keep_latents: opt.KeepLatents = False,
    model: opt.Model = None,
    dit_weight: opt.DitWeight = None,
    model_config: opt.ModelConfig = None,
    model_resolution: opt.ModelResolution = None,
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
    """See GENERATE_HELP."""
    given = dict(locals())
    from ..lite.request.options import GenerateOptions
    from ..lite.request.preflight import prepare

    for name in ("ctx", "json_lines", "dry_run", "debug"):
        given.pop(name)
    prepared, notes = prepare(GenerateOptions(**given))
    run(prepared, [*ctx.meta.get(NOTES, ()), *notes], json_lines=json_lines, dry_run=dry_run)
