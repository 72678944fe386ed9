"""`hvlite quantize` and `hvlite verify`: the options, the progress on stderr, the report on stdout."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..display import SafeLine
from ..errors import CheckpointError, ConfigError, InterruptedRunError
from ..lite.durations import counted, duration
from . import options as opt
from .paths import require_path
from .running import say

if TYPE_CHECKING:
    from ..quantize.convert import Progress, QuantizeResult
    from ..quantize.verify import VerifyResult

LINE_INTERVAL_S = 1.0
HOW = "How it is stored"

QUANTIZE_HELP = """Make the folder that streams from disk: fp8 or int8 blocks, a 4-bit language model. Needs no GPU.

hvlite quantize ckpts hunyuan-fp8

hvlite quantize ckpts hunyuan-int8 --transformer int8 --lora style.safetensors:0.8

A run that was stopped goes on with the same command and ends with the same bytes. `demo` is the model that ships with
hvlite (`./demo` is a folder of that name)."""

VERIFY_HELP = """Check a quantized folder: sizes, hashes, scales, and with --source the error of every weight.

hvlite verify hunyuan-fp8

hvlite verify hunyuan-fp8 --source ckpts --json"""

# A string: a path would take `./demo` for `demo`.
Source = Annotated[
    str, typer.Argument(metavar="SOURCE", help="A model: official tree, diffusers tree, a weights file, or demo.")
]
Target = Annotated[Path, typer.Argument(metavar="OUTPUT", help="The folder to make.")]
Transformer = Annotated[
    str,
    typer.Option(
        "--transformer",
        metavar="NAME",
        help="fp8, fp8:mse, int8, int8:mse, mixed, bf16.",
        autocompletion=opt.one_of("fp8", "fp8:mse", "int8", "int8:mse", "mixed", "bf16"),
        rich_help_panel=HOW,
    ),
]
TextEncoder = Annotated[
    str,
    typer.Option(
        "--text-encoder",
        metavar="NAME",
        help="nf4, int4, int4:mse, int8, bf16.",
        autocompletion=opt.one_of("nf4", "int4", "int4:mse", "int8", "bf16"),
        rich_help_panel=HOW,
    ),
]
Vae = Annotated[
    str,
    typer.Option(
        "--vae",
        metavar="NAME",
        help="fp16, bf16, fp32.",
        autocompletion=opt.one_of("fp16", "bf16", "fp32"),
        rich_help_panel=HOW,
    ),
]
Recipe = Annotated[
    Path | None,
    typer.Option(
        "--recipe",
        metavar="FILE",
        help="Schemes by layer (TOML); they come before the names above.",
        rich_help_panel=HOW,
    ),
]
Loras = Annotated[
    list[str] | None,
    typer.Option("--lora", metavar="FILE[:SCALE]", help="Merge a LoRA first; may be repeated.", rich_help_panel=HOW),
]
Parts = Annotated[
    list[str] | None,
    typer.Option(
        "--part",
        metavar="NAME",
        help="Only transformer, text_encoder, text_encoder_2 or vae; may be repeated.",
        autocompletion=opt.one_of("transformer", "text_encoder", "text_encoder_2", "vae"),
        rich_help_panel=opt.MODEL,
    ),
]
Resume = Annotated[
    bool,
    typer.Option(
        "--resume/--no-resume",
        help="Go on where an interrupted run stopped, or start anew.",
        rich_help_panel=opt.RESUME,
    ),
]
Force = Annotated[
    bool,
    typer.Option(
        "--force", metavar="", help="Replace a finished folder.", rich_help_panel=opt.RESUME, show_default=False
    ),
]
Workers = Annotated[
    int | None,
    typer.Option(
        "--threads",
        metavar="N",
        min=1,
        help="Threads; left out: one a core, at most four.",
        rich_help_panel=opt.RUNNING,
    ),
]


def quantize(
    source: Source,
    output: Target,
    transformer: Transformer = "fp8",
    text_encoder: TextEncoder = "nf4",
    vae: Vae = "fp16",
    recipe: Recipe = None,
    lora: Loras = None,
    part: Parts = None,
    dit_weight: opt.DitWeight = None,
    model_config: opt.ModelConfig = None,
    resume: Resume = True,
    force: Force = False,
    threads: Workers = None,
    json_lines: opt.JsonLines = False,
    debug: opt.Debug = False,
) -> None:
    """See QUANTIZE_HELP."""
    from ..lite.request.preflight import read_model_config
    from ..quantize.convert import QuantizeOptions, run_quantize

    _check_paths(recipe, lora)
    options = QuantizeOptions(
        source=_model(source),
        output=output,
        transformer=transformer,
        text_encoder=text_encoder,
        vae=vae,
        recipe=recipe,
        loras=tuple(lora or ()),
        parts=tuple(part or ()),
        dit_weight=dit_weight,
        model_config=read_model_config(model_config),
        resume=resume,
        force=force,
        workers=threads,
    )
    watch = ProgressLines(json_lines=json_lines)
    try:
        result = run_quantize(options, watch.show)
    except KeyboardInterrupt:
        raise InterruptedRunError(
            f"stopped; {watch.files_done} finished files are kept in {output}",
            hint="the same command goes on from there",
        ) from None
    _print_result(result, json_lines=json_lines)


def verify(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="A folder that hvlite quantize made.")],
    source: Annotated[
        str | None,
        typer.Option("--source", metavar="PATH", help="The model it was made from: compare every weight with it."),
    ] = None,
    lora: Loras = None,
    json_lines: opt.JsonLines = False,
    debug: opt.Debug = False,
) -> None:
    """See VERIFY_HELP."""
    from ..quantize.verify import run_verify

    require_path(folder, "FOLDER")
    _check_paths(None, lora)
    result = run_verify(folder, None if source is None else _model(source), tuple(lora or ()))
    _print_verified(result, folder, json_lines=json_lines)
    if not result.ok:
        raise CheckpointError(
            f"{folder} has {counted(len(result.problems), 'problem')}",
            hint="copy the folder again, or convert the model again",
        )


def _check_paths(recipe: Path | None, loras: list[str] | None) -> None:
    from ..quantize.lora import parse_argument

    if recipe is not None:
        require_path(recipe, "--recipe")
    for text in loras or ():
        require_path(parse_argument(text)[0], "--lora")


def _model(source: str) -> Path:
    """The model a SOURCE means: the word `demo` is the one that ships with hvlite."""
    if source != "demo":
        require_path(Path(source), "SOURCE")
        return Path(source)
    from ..lite.card import demo_root

    if not demo_root().is_dir():
        raise ConfigError(
            "the small model that ships with hvlite is not in this installation", hint="install hvlite from its wheel"
        )
    return demo_root()


class ProgressLines:
    """One line a second on stderr, or every event as JSON on stdout."""

    def __init__(self, *, json_lines: bool) -> None:
        self.files_done = 0
        self._json = json_lines
        self._line = SafeLine(sys.stdout if json_lines else sys.stderr)
        self._began = time.monotonic()
        self._next = self._began

    def show(self, progress: Progress) -> None:
        """Show how far the conversion is."""
        self.files_done = progress.files_done
        now = time.monotonic()
        if progress.kind != "kept" and progress.files_done < progress.files_total and now < self._next:
            return
        self._next = now + LINE_INTERVAL_S
        rate = progress.done_bytes / max(1e-9, now - self._began)
        left_s = (progress.total_bytes - progress.done_bytes) / rate if rate else None
        if self._json:
            fields = {name: value for name, value in vars(progress).items() if name != "kind"}
            self._line.write(json.dumps({"event": "progress", **fields, "bytes_per_s": rate, "left_s": left_s}))
        else:
            self._line.write(_describe(progress, rate, left_s))


def _describe(progress: Progress, rate: float, left_s: float | None) -> str:
    files = f"{progress.files_done} of {progress.files_total} files"
    if progress.kind == "kept":
        return f"going on: {files} are done already"
    amount = f"{progress.done_bytes / 1e9:.2f} of {progress.total_bytes / 1e9:.2f} GB"
    rest = "" if left_s is None else f", {rate / 1e6:.0f} MB/s, {duration(left_s)} left"
    return f"{progress.file}: {files}, {amount}{rest}"


def _print_result(result: QuantizeResult, *, json_lines: bool) -> None:
    from ..quantize.report import report_table

    if json_lines:
        say(json.dumps({"event": "finished", "output": str(result.output), **_summary(result)}))
        return
    for line in report_table(result.report):
        say(line)
    state = "was finished already" if result.already_finished else "is finished"
    SafeLine(sys.stderr).write(f"{result.output} {state}; report.json and report.png have every weight")


def _summary(result: QuantizeResult) -> dict[str, Any]:
    return {
        "already_finished": result.already_finished,
        "files_written": result.files_written,
        "files_kept": result.files_kept,
        "totals": result.report["totals"],
        "worst": result.report["worst"],
    }


def _print_verified(result: VerifyResult, folder: Path, *, json_lines: bool) -> None:
    if json_lines:
        say(json.dumps({"event": "verified", **result.to_json()}))
        return
    for problem in result.problems:
        say(problem)
    for layer in sorted(result.errors, key=lambda error: -error.quality.relative_error)[:10]:
        say(f"{layer.part}/{layer.name:<60} {layer.scheme:<6} relative error {layer.quality.relative_error:.5f}")
    if result.ok:
        say(f"{folder}: {result.files} files, {result.nbytes / 1e9:.2f} GB and {result.weights} weights are right")
