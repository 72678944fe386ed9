"""`hvlite compare`: how far two videos are apart."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from . import options as opt
from .paths import require_path, require_png
from .running import say

COMPARE_HELP = """Compare two videos of one size and length: PSNR, SSIM, LPIPS where installed, flicker.

hvlite compare bf16.mp4 int8.mp4 --sheet both.png

Two runs of a sampler drift apart without one being worse: low figures say different, not bad. Equal settings with
another attention or scheme are judged by `python -m hvlite.benchmarks.quality`."""

First = Annotated[Path, typer.Argument(metavar="A", help="A video (mp4, mkv, or a folder of frames).")]
Second = Annotated[Path, typer.Argument(metavar="B", help="The other one.")]
Sheet = Annotated[
    Path | None, typer.Option("--sheet", metavar="FILE", help="Also draw both and their difference as a PNG.")
]

Force = Annotated[
    bool, typer.Option("--force", metavar="", help="Replace the sheet that is there.", show_default=False)
]


def compare(
    first: First,
    second: Second,
    sheet: Sheet = None,
    force: Force = False,
    json_lines: opt.JsonLines = False,
    debug: opt.Debug = False,
) -> None:
    """See COMPARE_HELP."""
    require_path(first, "A")
    require_path(second, "B")
    if sheet is not None:
        require_png(sheet, "--sheet", force=force)
    from ..benchmarks.video_compare import compare_files

    found = compare_files(first, second, sheet)
    say(json.dumps(found.to_json()) if json_lines else found.text())
