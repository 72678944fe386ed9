"""`hvlite inspect` and `hvlite version`: what a file holds, and what hvlite stands on."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from . import options as opt
from .running import say

INSPECT_HELP = """Print what is inside: a video's settings, or a model's parts, sizes and dtypes.

hvlite inspect cat.mp4

hvlite inspect ckpts --tensors

hvlite inspect ckpts --json"""

Tensors = Annotated[
    bool,
    typer.Option(
        "--tensors", metavar="", help="Of a model: also every tensor, its dtype and shape.", show_default=False
    ),
]


def inspect(
    path: Annotated[Path, typer.Argument(metavar="PATH", help="A video that hvlite made, latents, or a model.")],
    dit_weight: opt.DitWeight = None,
    model_config: opt.ModelConfig = None,
    tensors: Tensors = False,
    json_lines: opt.JsonLines = False,
    debug: opt.Debug = False,
) -> None:
    """See INSPECT_HELP."""
    from ..lite.inspection import inspect_path, readable

    found = inspect_path(path, dit_weight=dit_weight, model_config_file=model_config)
    say(json.dumps(found, ensure_ascii=True) if json_lines else readable(found, tensors=tensors))


def print_version() -> None:
    """Print the versions of hvlite and of what it stands on."""
    from importlib.metadata import version

    from .. import __version__

    parts = ", ".join(f"{name} {version(name)}" for name in ("torch", "transformers", "av"))
    say(f"hvlite {__version__} (Python {sys.version.split()[0]}, {parts})")
