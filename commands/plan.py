"""`hvlite plan`: what a video takes on a card, before anything is downloaded or loaded."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import MemoryLimitError
from . import options as opt

if TYPE_CHECKING:
    from ..lite.planning.request import PlanOptions

PLAN_HELP = """Tell what fits where, before anything is loaded: memory, where the blocks live, time.

hvlite plan --model hunyuan-video-fp8 --resolution 720p --gpu "RTX 4070"

hvlite plan --model my-model --frames 65 --vram-limit 8GiB --ram-limit 16GiB --json

Presets need no files: hunyuan-video-fp8, hunyuan-video-int8, hunyuan-video-bf16. Exit code 6: it does not fit; the plan
names the nearest settings that do. Times are estimates from a table of cards."""


def complete_gpu(incomplete: str) -> list[str]:
    """Cards of the table that begin as what is typed, in the same case: the shell drops others."""
    from ..lite.planning.gpus import GPUS

    return [name for name in GPUS if name.startswith(incomplete)]


Model = Annotated[
    str | None,
    typer.Option(
        "--model",
        metavar="PATH|PRESET",
        help="Folder of a model, or a preset. Left out: the small model that ships.",
        autocompletion=opt.one_of("hunyuan-video-fp8", "hunyuan-video-int8", "hunyuan-video-bf16"),
        rich_help_panel=opt.MODEL,
    ),
]
Gpu = Annotated[
    str | None,
    typer.Option(
        "--gpu",
        metavar="NAME",
        help='Plan for a card you may not have: "RTX 4060 Ti 16GB", "H100". Left out: the one that is there.',
        autocompletion=complete_gpu,
        rich_help_panel=opt.LIMITS,
    ),
]
Table = Annotated[
    bool,
    typer.Option(
        "--table",
        metavar="",
        help="Official sizes by cards, as Markdown; with --json a list.",
        rich_help_panel=opt.LIMITS,
        show_default=False,
    ),
]
Caps = Annotated[
    bool,
    typer.Option(
        "--caps",
        metavar="",
        help="This video on cards of 24, 16, 12, 8 and 6 GiB, as Markdown; with --json a list.",
        rich_help_panel=opt.LIMITS,
        show_default=False,
    ),
]


def plan(
    model: Model = None,
    video_size: opt.VideoSize = None,
    resolution: opt.Resolution = None,
    aspect: opt.Aspect = None,
    frames: opt.Frames = None,
    steps: opt.Steps = None,
    cfg_scale: opt.CfgScale = None,
    gpu: Gpu = None,
    vram_limit: opt.VramLimit = None,
    ram_limit: opt.RamLimit = None,
    tier: opt.Tier = "auto",
    device: opt.Device = "auto",
    table: Table = False,
    caps: Caps = False,
    json_lines: opt.JsonLines = False,
    debug: opt.Debug = False,
) -> None:
    """See PLAN_HELP."""
    given = dict(locals())
    from ..lite.planning.request import PlanOptions, make_plan
    from ..lite.planning.view import plan_json, plan_text

    for name in ("table", "caps", "json_lines", "debug"):
        given.pop(name)
    if table:
        typer.echo(_table(model or "hunyuan-video-fp8", json_lines=json_lines))
        return
    if caps:
        typer.echo(_caps(PlanOptions(**given), json_lines=json_lines))
        return
    made = make_plan(PlanOptions(**given))
    typer.echo(json.dumps(plan_json(made)) if json_lines else plan_text(made))
    if not made.fits:
        raise typer.Exit(MemoryLimitError.exit_code)


def _table(model: str, *, json_lines: bool) -> str:
    from ..lite.planning.size_table import table_json, table_markdown, table_rows

    rows = table_rows(model)
    return json.dumps(table_json(rows)) if json_lines else table_markdown(rows)


def _caps(options: PlanOptions, *, json_lines: bool) -> str:
    from ..lite.planning.caps_table import caps_json, caps_markdown
    from ..lite.planning.request import make_caps_plans

    plans = make_caps_plans(options)
    return json.dumps(caps_json(plans)) if json_lines else caps_markdown(plans)
