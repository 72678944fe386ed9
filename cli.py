"""The command line: reads the arguments, asks the layers below to do the work, prints what came of it.

Nothing heavy is imported before a request has passed its checks. Data goes to stdout, everything else to stderr; every
error is one line that says what was wrong and one that says what to do, and the exit code names its kind (errors.py).
"""

from __future__ import annotations

import contextlib
import errno
import io
import json
import os
import sys
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand

from .commands import bench as cli_bench
from .commands import options as opt
from .commands import plan as cli_plan
from .commands import quantize as cli_quantize
from .errors import ConfigError, DiskError, HvliteError, InterruptedRunError, MemoryLimitError
from .lite.request.official_flags import official_summary, square_size, take_official_flags

if TYPE_CHECKING:
    from .display import Display
    from .lite.interrupt import StopFlag
    from .lite.request.preflight import Prepared

NOTES = "hvlite.notes"
DISK_ERRNOS = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG, errno.EIO})
# Typer raises these for a wrong command line; older versions take the class from click, newer ones carry their own.
USAGE_ERROR: Any = typer.BadParameter.__mro__[1]

GENERATE_HELP = """Make a video from a prompt.

[bold]hvlite generate "a red circle moves to the right"[/bold] works as it is, with the small model that ships.

hvlite generate "a cat walks on the grass" --model ckpts --resolution 540p --aspect 9:16 --output cat.mp4

hvlite generate "a cat walks on the grass" --model ckpts --frames 65 --seed 7 --save-path videos --num-videos 3
"""

OFFICIAL_HELP = f"""The flags of the official command work as well. Of these, hvlite has the official value alone:
{official_summary()}. Any other value is refused with the reason."""

app = typer.Typer(
    name="hvlite",
    help="HunyuanVideo on the machine you own: a video from a prompt, without a big graphics card.",
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["--help", "-h"]},
)


class GenerateCommand(TyperCommand):
    """`generate` as Typer parses it, after the official flags with one possible value are checked and taken out."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """The arguments that are left; what the flags have to say waits in the context."""
        left, ctx.meta[NOTES] = take_official_flags(square_size(args))
        return super().parse_args(ctx, left)


@app.callback(invoke_without_command=True)
def hvlite(
    ctx: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", metavar="", help="Print the versions.", show_default=False)
    ] = False,
) -> None:
    """HunyuanVideo on the machine you own."""
    if version:
        print_version()
        raise typer.Exit
    if ctx.invoked_subcommand is None:
        say(ctx.get_help())


@app.command(cls=GenerateCommand, help=GENERATE_HELP, epilog=OFFICIAL_HELP)
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
    tier: opt.Tier = "auto",
    attention: opt.Attention = "auto",
    threads: opt.Threads = None,
    json_lines: opt.JsonLines = False,
    dry_run: opt.DryRun = False,
    debug: opt.Debug = False,
) -> None:
    """See GENERATE_HELP."""
    given = dict(locals())
    from .lite.request.options import GenerateOptions
    from .lite.request.preflight import prepare

    for name in ("ctx", "json_lines", "dry_run", "debug"):
        given.pop(name)
    prepared, notes = prepare(GenerateOptions(**given))
    run(prepared, [*ctx.meta.get(NOTES, ()), *notes], json_lines=json_lines, dry_run=dry_run)


@app.command()
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
    tier: opt.Tier = "auto",
    attention: opt.Attention = "auto",
    threads: opt.Threads = None,
    json_lines: opt.JsonLines = False,
    dry_run: opt.DryRun = False,
    debug: opt.Debug = False,
) -> None:
    """Make the same video again, from the settings inside it. Left out, the output is VIDEO-rerun beside it."""
    given = dict(locals())
    from .lite.request.options import RerunOptions
    from .lite.request.preflight_again import prepare_rerun

    for name in ("json_lines", "dry_run", "debug"):
        given.pop(name)
    run([prepare_rerun(RerunOptions(**given))], [], json_lines=json_lines, dry_run=dry_run)


@app.command()
def decode(
    latents: Annotated[
        Path, typer.Argument(metavar="LATENTS", help="latents.safetensors of a run's <output>.hvlite/.")
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
    threads: opt.Threads = None,
    json_lines: opt.JsonLines = False,
    debug: opt.Debug = False,
) -> None:
    """Make the video from final latents: of --keep-latents, or of a run that failed while decoding."""
    given = dict(locals())
    from .lite.launch import decode_latents
    from .lite.request.options import DecodeOptions
    from .lite.request.preflight_again import prepare_decode

    for name in ("json_lines", "debug"):
        given.pop(name)
    request = prepare_decode(DecodeOptions(**given))
    with watched(json_lines=json_lines) as (display, stop):
        decode_latents(request, display.show, stop)
    if not json_lines:
        say(request.output)


@app.command()
def inspect(
    path: Annotated[Path, typer.Argument(metavar="PATH", help="A video that hvlite made, latents, or a model.")],
    dit_weight: opt.DitWeight = None,
    model_config: opt.ModelConfig = None,
    json_lines: opt.JsonLines = False,
    debug: opt.Debug = False,
) -> None:
    """Print what is inside: a video's settings, or a model's parts, sizes and dtypes."""
    from .lite.inspection import inspect_path, readable

    found = inspect_path(path, dit_weight=dit_weight, model_config_file=model_config)
    say(json.dumps(found, ensure_ascii=True) if json_lines else readable(found))


app.command(help=cli_plan.PLAN_HELP)(cli_plan.plan)
app.command(help=cli_quantize.QUANTIZE_HELP)(cli_quantize.quantize)
app.command()(cli_quantize.verify)
app.command(help=cli_bench.BENCH_HELP)(cli_bench.bench)


@app.command("version")
def print_version() -> None:
    """Print the versions of hvlite and of what it stands on."""
    from importlib.metadata import version

    from . import __version__

    parts = ", ".join(f"{name} {version(name)}" for name in ("torch", "transformers", "av"))
    say(f"hvlite {__version__} (Python {sys.version.split()[0]}, {parts})")


def run(prepared: Sequence[Prepared], notes: Sequence[str], *, json_lines: bool, dry_run: bool) -> None:
    """Make the videos, or only print what would be made."""
    if dry_run:
        for each in prepared:
            print_plan(each, notes, json_lines=json_lines)
        return
    from .lite.events import Note
    from .lite.launch import make_videos

    with watched(json_lines=json_lines) as (display, stop):
        for text in notes:
            display.show(Note("info", text))
        outputs = make_videos(prepared, display.show, stop)
    if not json_lines:
        for output in outputs:
            say(output)


def print_plan(prepared: Prepared, notes: Sequence[str], *, json_lines: bool) -> None:
    """The settings of a video that --dry-run does not make."""
    request = prepared.request
    plan = {
        "model": prepared.card.name,
        **request.config.to_json(),
        "output": str(request.output),
        "finished": prepared.before.done,
        "resumes_after_step": prepared.before.step,
        "needed_disk_bytes": prepared.needed_bytes,
    }
    if json_lines:
        say(json.dumps({"event": "plan", **plan, "notes": list(notes)}))
        return
    for note in notes:
        print(note, file=sys.stderr)
    for name, value in plan.items():
        say(f"{name}: {value}")


@contextlib.contextmanager
def watched(*, json_lines: bool) -> Iterator[tuple[Display, StopFlag]]:
    """A display for the events of a run and the flag that Ctrl-C, SIGTERM and SIGHUP set."""
    from .display import open_display
    from .lite.interrupt import StopFlag

    with open_display(json_lines=json_lines) as display:
        stop = StopFlag(display.stopping)
        with stop.installed():
            yield display, stop


def say(text: object) -> None:
    """One piece of data on stdout; a reader that went away is not an error of ours."""
    with contextlib.suppress(BrokenPipeError):
        print(text, flush=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command line; returns the exit code (errors.py and docs name them)."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    options = words[: words.index("--")] if "--" in words else words
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a terminal may not know the letters of a prompt
    try:
        code = app(args=words, prog_name="hvlite", standalone_mode=False)
        if code == InterruptedRunError.exit_code:  # what Typer makes of Ctrl-C
            raise InterruptedRunError("stopped before the work began")
        return code if isinstance(code, int) else 0
    except Exception as error:  # noqa: BLE001  # the last door: whatever it is gets one line
        if "--debug" in options:
            traceback.print_exc()
        known = as_known(error)
        report(known, json_lines="--json" in options)
        return known.exit_code
    finally:
        close_stdout()


def as_known(error: Exception) -> HvliteError:
    """The error as one that a user can meet; what is none of those is a bug of ours."""
    if isinstance(error, HvliteError):
        return error
    if isinstance(error, USAGE_ERROR):
        command = error.ctx.command_path if error.ctx else "hvlite"
        return ConfigError(" ".join(error.format_message().split()), hint=f"{command} --help lists what there is")
    if isinstance(error, MemoryError):
        return MemoryLimitError("the machine has no memory left", hint="fewer --frames or a smaller size needs less")
    if isinstance(error, OSError) and error.errno in DISK_ERRNOS:
        return DiskError(f"{error.filename or 'disk'}: {error.strerror}", hint="free some space or choose another disk")
    return HvliteError(
        f"a bug in hvlite: {type(error).__name__}: {error}",
        hint="please report it, with the command, `hvlite --version` and what --debug prints",
    )


def report(error: HvliteError, *, json_lines: bool) -> None:
    """One line that says what was wrong, one that says what to do; for programs an event as well."""
    lines = [f"error: {error.message}"] + ([f"hint: {error.hint}"] if error.hint else [])
    if isinstance(error, InterruptedRunError):
        lines[0] = error.message
    with contextlib.suppress(OSError, ValueError):  # stderr may be closed
        print(*lines, sep="\n", file=sys.stderr, flush=True)
    if json_lines:
        fields = {"message": error.message, "hint": error.hint, "exit_code": error.exit_code}
        with contextlib.suppress(OSError, ValueError):
            print(json.dumps({"event": "error", **fields}), flush=True)


def close_stdout() -> None:
    """Flush what is left; a reader that went away is not an error of the run."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except ValueError:  # closed by the caller
        return


if __name__ == "__main__":
    sys.exit(main())
