"""The options of the commands, as Typer reads them: names, help and the panel of the help page they stand in."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from ..lite.card import named_model

WHAT = "What to show"
SIZE = "Size and length"
QUALITY = "Quality"
OUTPUT = "Output"
RESUME = "Interrupted runs"
MODEL = "Model"
RUNNING = "Running"
LIMITS = "Memory"


def one_of(*words: str) -> Callable[[str], list[str]]:
    """A completion for the shell: those of `words` that begin as what is typed."""

    def complete(incomplete: str) -> list[str]:
        return [word for word in words if word.startswith(incomplete)]

    return complete


PromptWords = Annotated[
    str | None, typer.Argument(metavar="PROMPT", help="What to show, in quotes.", rich_help_panel=WHAT)
]
Prompt = Annotated[
    str | None,
    typer.Option(
        "--prompt",
        metavar="TEXT",
        help="The same, as an option (--prompt=-x may start with a dash).",
        rich_help_panel=WHAT,
    ),
]
PromptFile = Annotated[
    Path | None,
    typer.Option("--prompt-file", metavar="FILE", help="Read the prompt from a UTF-8 file.", rich_help_panel=WHAT),
]
NegPrompt = Annotated[
    str | None,
    typer.Option(
        "--neg-prompt",
        "--negative-prompt",
        metavar="TEXT",
        help="What to keep away from; works with --cfg-scale above 1, which without it uses a built-in text.",
        rich_help_panel=WHAT,
    ),
]
Seed = Annotated[
    int | None,
    typer.Option(
        "--seed",
        metavar="N",
        help="The same seed gives the same video. Left out: one is drawn and printed.",
        rich_help_panel=WHAT,
    ),
]
NumVideos = Annotated[
    int,
    typer.Option(
        "--num-videos",
        metavar="N",
        help="Make several: seeds seed, seed+1, ... and numbered files.",
        rich_help_panel=WHAT,
    ),
]

VideoSize = Annotated[
    tuple[int, int] | None,
    typer.Option(
        "--video-size", "--size", metavar="HEIGHT WIDTH", help="In pixels, multiples of 16.", rich_help_panel=SIZE
    ),
]
Resolution = Annotated[
    str | None,
    typer.Option(
        "--resolution",
        metavar="720p|540p",
        help="A size by name; see --aspect.",
        autocompletion=one_of("720p", "540p"),
        rich_help_panel=SIZE,
    ),
]
Aspect = Annotated[
    str | None,
    typer.Option(
        "--aspect",
        metavar="W:H",
        help="16:9, 9:16, 4:3, 3:4 or 1:1. Without --resolution: of the sizes the model was made for.",
        autocompletion=one_of("16:9", "9:16", "4:3", "3:4", "1:1"),
        rich_help_panel=SIZE,
    ),
]
Frames = Annotated[
    int | None,
    typer.Option("--frames", "--video-length", metavar="N", help="4k+1: 1, 5, 9, ... 129.", rich_help_panel=SIZE),
]
Fps = Annotated[
    int | None, typer.Option("--fps", metavar="N", help="Frames a second of the file (13B: 24).", rich_help_panel=SIZE)
]

Steps = Annotated[
    int | None,
    typer.Option("--steps", "--infer-steps", metavar="N", help="Denoising steps (13B: 50).", rich_help_panel=QUALITY),
]
Guidance = Annotated[
    float | None,
    typer.Option(
        "--guidance",
        "--embedded-cfg-scale",
        metavar="X",
        help="How closely to follow the prompt (13B: 6.0).",
        rich_help_panel=QUALITY,
    ),
]
CfgScale = Annotated[
    float | None,
    typer.Option(
        "--cfg-scale",
        metavar="X",
        help="Classifier-free guidance; above 1 it doubles the work.",
        rich_help_panel=QUALITY,
    ),
]
FlowShift = Annotated[
    float | None,
    typer.Option("--flow-shift", metavar="X", help="Shift of the noise schedule (13B: 7.0).", rich_help_panel=QUALITY),
]
FlowReverse = Annotated[
    bool,
    typer.Option(
        "--flow-reverse/--no-flow-reverse",
        metavar="",
        help="On, unlike in the official command: the released weights need it.",
        rich_help_panel=QUALITY,
    ),
]

Output = Annotated[
    Path | None,
    typer.Option(
        "--output", "-o", metavar="FILE", help="The file: .mp4, or .mkv for lossless.", rich_help_panel=OUTPUT
    ),
]
SavePath = Annotated[
    Path | None,
    typer.Option("--save-path", metavar="DIR", help="A folder; the name is chosen.", rich_help_panel=OUTPUT),
]
SavePathSuffix = Annotated[
    str,
    typer.Option("--save-path-suffix", metavar="TEXT", help="Goes behind the folder's name.", rich_help_panel=OUTPUT),
]
NameSuffix = Annotated[
    str, typer.Option("--name-suffix", metavar="TEXT", help="Goes behind the chosen name.", rich_help_panel=OUTPUT)
]
Crf = Annotated[
    int | None,
    typer.Option(
        "--crf", metavar="N", help="Quality of H.264, 0 to 51; lower is better. Default: 17.", rich_help_panel=OUTPUT
    ),
]
Lossless = Annotated[
    bool,
    typer.Option(
        "--lossless", metavar="", help="Every bit kept: FFV1 in .mkv.", rich_help_panel=OUTPUT, show_default=False
    ),
]
Png = Annotated[
    bool,
    typer.Option(
        "--png", "--png-frames", metavar="", help="A folder of PNG frames.", rich_help_panel=OUTPUT, show_default=False
    ),
]
Preview = Annotated[
    bool,
    typer.Option(
        "--preview",
        metavar="",
        help="A small picture of the work, every 5 steps.",
        rich_help_panel=OUTPUT,
        show_default=False,
    ),
]
PreviewEvery = Annotated[
    int | None, typer.Option("--preview-every", metavar="N", help="The same, every N steps.", rich_help_panel=OUTPUT)
]
Force = Annotated[
    bool,
    typer.Option(
        "--force",
        metavar="",
        help="Replace what is at the output, start anew.",
        rich_help_panel=OUTPUT,
        show_default=False,
    ),
]

Resume = Annotated[
    bool | None,
    typer.Option(
        "--resume/--no-resume",
        metavar="",
        help="Go on from the last finished step, with the same bits as an uninterrupted run; or start anew.",
        rich_help_panel=RESUME,
        show_default=False,
    ),
]
KeepLatents = Annotated[
    bool,
    typer.Option(
        "--keep-latents",
        metavar="",
        help="Keep <output>.hvlite/: `hvlite decode` makes the video again from the latents in it.",
        rich_help_panel=RESUME,
        show_default=False,
    ),
]

Model = Annotated[
    Path | None,
    typer.Option(
        "--model",
        "--model-base",
        metavar="PATH",
        help="Folder of the model (official, diffusers or hvlite layout). Left out, or demo: the small one that ships.",
        parser=named_model,
        rich_help_panel=MODEL,
    ),
]
DitWeight = Annotated[
    Path | None,
    typer.Option("--dit-weight", metavar="FILE", help="Another file for the transformer.", rich_help_panel=MODEL),
]
ModelConfig = Annotated[
    Path | None,
    typer.Option(
        "--model-config",
        metavar="FILE",
        help="JSON with official field names (heads_num, rope_dim_list, ...), where the weights cannot say.",
        rich_help_panel=MODEL,
    ),
]
ModelResolution = Annotated[
    str | None,
    typer.Option(
        "--model-resolution",
        metavar="540p|720p",
        help="Which of several official weights, where the folder has them; not the size of the video.",
        autocompletion=one_of("540p", "720p"),
        rich_help_panel=MODEL,
    ),
]
UseFp8 = Annotated[
    bool,
    typer.Option(
        "--use-fp8", metavar="", help="The official fp8 file and its map.", rich_help_panel=MODEL, show_default=False
    ),
]

VaeTiling = Annotated[
    bool,
    typer.Option(
        "--vae-tiling/--no-vae-tiling", metavar="", help="Decode in tiles, in less memory.", rich_help_panel=LIMITS
    ),
]
Precision = Annotated[
    str | None,
    typer.Option(
        "--precision",
        metavar="fp32|bf16|fp16",
        help="Of the transformer; fp32 on a CPU.",
        autocompletion=one_of("fp32", "bf16", "fp16"),
        rich_help_panel=RUNNING,
    ),
]
Device = Annotated[
    str,
    typer.Option(
        "--device",
        metavar="auto|cpu|cuda",
        help="Where to run.",
        autocompletion=one_of("auto", "cpu", "cuda"),
        rich_help_panel=RUNNING,
    ),
]
Wait = Annotated[
    bool,
    typer.Option(
        "--wait/--no-wait",
        metavar="",
        help="Where another hvlite has the graphics card: wait for it, or refuse (exit code 75).",
        rich_help_panel=RUNNING,
    ),
]
Tier = Annotated[
    str,
    typer.Option(
        "--tier",
        metavar="auto|resident|host|disk",
        help="Where the transformer's blocks are during the run; auto: what the plan finds fastest.",
        autocompletion=one_of("auto", "resident", "host", "disk"),
        rich_help_panel=LIMITS,
    ),
]
VramLimit = Annotated[
    str | None,
    typer.Option(
        "--vram-limit",
        metavar="AMOUNT",
        help="A cap on the card's memory: 12GiB, 8000MiB. Left out: all of it.",
        rich_help_panel=LIMITS,
    ),
]
RamLimit = Annotated[
    str | None,
    typer.Option(
        "--ram-limit",
        metavar="AMOUNT",
        help="A cap on the machine's memory. Left out: 16GiB.",
        rich_help_panel=LIMITS,
    ),
]
OnNonfinite = Annotated[
    str,
    typer.Option(
        "--on-nonfinite",
        metavar="stop|retry",
        help="When a step or a tile gives NaN: stop, or repeat it in fp32.",
        autocompletion=one_of("stop", "retry"),
        rich_help_panel=RUNNING,
    ),
]
Linear = Annotated[
    str,
    typer.Option(
        "--linear",
        metavar="auto|w8a8|dequantize",
        help="Quantized layers: 8-bit products where the card has them, or widened weights.",
        rich_help_panel=RUNNING,
    ),
]
PromptCache = Annotated[
    bool,
    typer.Option(
        "--prompt-cache/--no-prompt-cache",
        metavar="",
        help="Keep what the text encoders made of a prompt (in ~/.cache/hvlite), so that it is encoded once.",
        rich_help_panel=RUNNING,
    ),
]
Attention = Annotated[
    str,
    typer.Option(
        "--attention",
        metavar="auto|hvlite|sdpa|sage",
        help="Attention: our kernel in 8 bits, PyTorch's, or the package sageattention. auto: the card's table.",
        rich_help_panel=RUNNING,
    ),
]
Threads = Annotated[
    int | None, typer.Option("--threads", metavar="N", help="Threads of the CPU.", rich_help_panel=RUNNING)
]
JsonLines = Annotated[
    bool,
    typer.Option(
        "--json",
        metavar="",
        help="For programs: JSON on stdout, one object a line.",
        rich_help_panel=RUNNING,
        show_default=False,
    ),
]
DryRun = Annotated[
    bool,
    typer.Option(
        "--dry-run",
        metavar="",
        help="Check everything, print the settings, make nothing.",
        rich_help_panel=RUNNING,
        show_default=False,
    ),
]
Debug = Annotated[
    bool,
    typer.Option(
        "--debug", metavar="", help="Show the traceback of an error.", rich_help_panel=RUNNING, show_default=False
    ),
]
