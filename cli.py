"""The command line: registers the commands, runs one, and turns what goes wrong into a line and an exit code.

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
from collections.abc import Sequence
from typing import Annotated, Any

import typer

from .commands import again, batch, bench, compare, doctor, generate, inspect, plan, quantize
from .commands.running import say
from .errors import ConfigError, DiskError, HvliteError, InterruptedRunError, MemoryLimitError

DISK_ERRNOS = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG, errno.EIO})
# Typer raises these for a wrong command line; older versions take the class from click, newer ones carry their own.
USAGE_ERROR: Any = typer.BadParameter.__mro__[1]

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
app.command(help=again.RERUN_HELP)(again.rerun)
app.command(help=again.DECODE_HELP)(again.decode)
app.command(help=inspect.INSPECT_HELP)(inspect.inspect)
app.command(help=plan.PLAN_HELP)(plan.plan)
app.command(help=doctor.DOCTOR_HELP)(doctor.doctor)
app.command(help=quantize.QUANTIZE_HELP)(quantize.quantize)
app.command(help=quantize.VERIFY_HELP)(quantize.verify)
app.command(help=batch.BATCH_HELP)(batch.batch)
app.command(help=bench.BENCH_HELP)(bench.bench)
app.command(help=compare.COMPARE_HELP)(compare.compare)
app.command("version")(inspect.print_version)


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
    if said := _out_of_memory(error):
        return MemoryLimitError(said, hint="fewer --frames or a smaller size needs less")
    if isinstance(error, OSError) and error.errno in DISK_ERRNOS:
        return DiskError(f"{error.filename or 'disk'}: {error.strerror}", hint="free some space or choose another disk")
    return HvliteError(
        f"a bug in hvlite: {type(error).__name__}: {error}",
        hint="please report it, with the command, `hvlite --version` and what --debug prints",
    )


def _out_of_memory(error: Exception) -> str | None:
    """In words, that memory ran out. Torch has errors of its own for it; where it is not loaded there are none."""
    if "torch" not in sys.modules:
        return "the machine has no memory left" if isinstance(error, MemoryError) else None
    from .lite.recovery.memory import out_of_memory

    return out_of_memory(error)


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
