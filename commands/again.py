"""`hvlite rerun` and `hvlite decode`: a video again, from the settings inside it or from its final latents."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from . import options as opt
from .running import run, say, watched

RERUN_HELP = """Make the same video again, from the settings inside it. Left out, the output is VIDEO-rerun beside it.

hvlite rerun cat.mp4

hvlite rerun cat.mp4 --lossless --output cat.mkv --model hunyuan-fp8"""

DECODE_HELP = """Make the video from final latents: of --keep-latents, or of a run that failed while decoding.

hvlite decode cat.mp4.hvlite --model hunyuan-fp8

hvlite decode cat.mp4.hvlite/latents.safetensors --model hunyuan-fp8 --device cpu --png --output frames"""


def rerun(
    video: Annotated[Path, typer.Argument(metavar="VIDEO", help="A video that hvlite made, or its folder of frames.")],
    output: opt.Output = None,
    lossless: opt.Lossless = False,
    png: opt.Png = False,
    crf: opt.Crf = None,
    force: opt.Force = False,
    resume: opt.Resume = None,
    keep_latents: opt.KeepLatents = False,
    model: opt.Model = None,
    dit_weight: opt.DitWeight = None,
    model_config: opt.ModelConfig = None,
    use_fp8: opt.UseFp8 = False,
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
    """See RERUN_HELP."""
    given = dict(locals())
    from ..lite.request.options import RerunOptions
    from ..lite.request.preflight_again import prepare_rerun

    for name in ("json_lines", "dry_run", "debug"):
        given.pop(name)
    run([prepare_rerun(RerunOptions(**given))], [], json_lines=json_lines, dry_run=dry_run)


def decode(
    latents: Annotated[
        Path, typer.Argument(metavar="LATENTS", help="The <output>.hvlite/ of a run, or the latents.safetensors in it.")
    ],
    output: opt.Output = None,
    fps: opt.Fps = None,
    crf: opt.Crf = None,
    lossless: opt.Lossless = False,
    png: opt.Png = False,
    force: opt.Force = False,
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
    threads: opt.Threads = None,
    json_lines: opt.JsonLines = False,
    debug: opt.Debug = False,
) -> None:
    """See DECODE_HELP."""
    given = dict(locals())
    from ..lite.launch import decode_latents
    from ..lite.request.options import DecodeOptions
    from ..lite.request.preflight_again import prepare_decode

    for name in ("json_lines", "debug"):
        given.pop(name)
    request = prepare_decode(DecodeOptions(**given))
    with watched(json_lines=json_lines) as (display, stop):
        decode_latents(request, display.show, stop)
    if not json_lines:
        say(request.output)
