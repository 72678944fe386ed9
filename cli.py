"""The command line: registers the commands, runs one, and turns what goes wrong into a line and an exit code.

Nothing heavy is imported before a request has passed its checks. Data goes to stdout, everything else to stderr; every
error is one line that says what was wrong and one that says what to do, and the exit code names its kind (errors.py).
"""

from __future__ import annotations

import errno
import io
import json
import sys
import traceback
from collections.abc import Sequence
from typing import Annotated

import typer

from .commands import again, batch, bench, compare, doctor, generate, inspect, plan, quantize
from .commands.command import USAGE_ERROR, Command, Program
from .commands.running import say
from .commands.streams import lasting_streams, output_error
from .display import printable
from .errors import ConfigError, DiskError, HvliteError, InterruptedRunError, MemoryLimitError

DISK_ERRNOS = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG, errno.EIO})
# For an error that has no hint of its own, by its exit code.
USUAL_HINTS = {
    2: "the --help of the command says what it takes",
    3: "get the file again from where it came, or name another one",
    4: "check that disk, or choose another one",
    5: "`hvlite doctor` says what this machine lacks",
    6: "fewer --frames or a smaller size needs less",
}

HELP = """HunyuanVideo on the machine you own: a video from a prompt, without a big graphics card.

[bold]hvlite generate "a red circle moves to the right"[/bold] works as it is.

Something wrong? [bold]hvlite doctor[/bold] says what, and what helps."""

EXIT_CODES = (
    "Exit codes: 0 done, 1 some prompts of a batch failed, 2 something in the command cannot be right, 3 weights, "
    "4 disk, 5 device or missing part, 6 does not fit in memory, 70 a bug of ours, 75 the card is in use (--no-wait), "
    "130 stopped, the work is kept."
)

app = typer.Typer(
    name="hvlite",
    cls=Program,
    help=HELP,
    epilog=EXIT_CODES,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["--help", "-h"]},
)


@app.callback(invoke_without_command=True)
def hvlite(
    ctx: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", metavar="", help="Print the versions.", show_default=False)
    ] = False,
) -> None:
    """HunyuanVideo on the machine you own."""
    if version:
        inspect.print_version()
        raise typer.Exit
    if ctx.invoked_subcommand is None:
        say(ctx.get_help())


app.command(cls=generate.GenerateCommand, help=generate.GENERATE_HELP, epilog=generate.OFFICIAL_HELP)(generate.generate)
app.command(cls=Command, help=again.RERUN_HELP)(again.rerun)
app.command(cls=Command, help=again.DECODE_HELP)(again.decode)
app.command(cls=Command, help=inspect.INSPECT_HELP)(inspect.inspect)
app.command(cls=Command, help=plan.PLAN_HELP)(plan.plan)
app.command(cls=Command, help=doctor.DOCTOR_HELP)(doctor.doctor)
app.command(cls=Command, help=quantize.QUANTIZE_HELP)(quantize.quantize)
app.command(cls=Command, help=quantize.VERIFY_HELP)(quantize.verify)
app.command(cls=Command, help=batch.BATCH_HELP)(batch.batch)
app.command(cls=Command, help=bench.BENCH_HELP)(bench.bench)
app.command(cls=Command, help=compare.COMPARE_HELP)(compare.compare)
app.command("version", cls=Command)(inspect.print_version)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command line; returns the exit code (errors.py and docs name them)."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    options = words[: words.index("--")] if "--" in words else words
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a terminal may not know the letters of a prompt
    with lasting_streams() as out:
        code = run_command(words, debug="--debug" in options, json_lines="--json" in options)
        lost = output_error(out)
        if lost is not None:
            report(lost, json_lines=False)
            code = code or lost.exit_code
    return code


def run_command(words: list[str], *, debug: bool, json_lines: bool) -> int:
    """The command of these words; what goes wrong is printed and becomes the exit code."""
    try:
        code = app(args=words, prog_name="hvlite", standalone_mode=False)
        if code == InterruptedRunError.exit_code:  # what Typer makes of Ctrl-C
            raise KeyboardInterrupt
        return code if isinstance(code, int) else 0
    except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001  # the last door: whatever it is gets one line
        if debug:
            print(printable(traceback.format_exc()), end="", file=sys.stderr)
        known = as_known(error)
        report(known, json_lines=json_lines)
        return known.exit_code


def as_known(error: BaseException) -> HvliteError:
    """The error as one that a user can meet; what is none of those is a bug of ours."""
    if isinstance(error, HvliteError):
        return error
    if isinstance(error, KeyboardInterrupt):
        return InterruptedRunError("stopped before the work began")
    if isinstance(error, USAGE_ERROR):
        command = error.ctx.command_path if error.ctx else "hvlite"
        return ConfigError(" ".join(error.format_message().split()), hint=f"{command} --help lists what there is")
    if said := _out_of_memory(error):
        return MemoryLimitError(said, hint="fewer --frames or a smaller size needs less")
    if isinstance(error, OSError) and error.errno in DISK_ERRNOS:
        return DiskError(f"{error.filename or 'disk'}: {error.strerror}", hint="free some space or choose another disk")
    return HvliteError(
        f"a bug in hvlite: {type(error).__name__}: {error}",
        hint="please report it, with the command, `hvlite --version` and what --debug prints",
    )


def _out_of_memory(error: BaseException) -> str | None:
    """In words, that memory ran out. Torch has errors of its own for it; where it is not loaded there are none."""
    if "torch" not in sys.modules:
        return "the machine has no memory left" if isinstance(error, MemoryError) else None
    from .lite.recovery.memory import out_of_memory

    return out_of_memory(error)


def report(error: HvliteError, *, json_lines: bool) -> None:
    """One line that says what was wrong, one that says what to do; for programs an event as well."""
    hint = error.hint or USUAL_HINTS.get(error.exit_code)
    lines = [f"error: {error.message}"] + ([f"hint: {hint}"] if hint else [])
    if isinstance(error, InterruptedRunError):
        lines[0] = error.message
    print(*map(printable, lines), sep="\n", file=sys.stderr, flush=True)
    if json_lines:
        fields = {"message": error.message, "hint": hint, "exit_code": error.exit_code}
        print(json.dumps({"event": "error", **fields}), flush=True)


if __name__ == "__main__":
    sys.exit(main())
