"""What every command of `hvlite` does with its command line before the command sees it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

from ..errors import ConfigError
from ..lite.request.official_flags import SIZE_OPTIONS, spell_out_size

# Typer raises these for a wrong command line; older versions take the class from click, newer ones carry their own.
USAGE_ERROR: Any = typer.BadParameter.__mro__[1]


class _PlainHelp:
    """On a help page a switch stands without a type."""

    def get_params(self, ctx: Any) -> list[Any]:
        params: list[Any] = super().get_params(ctx)  # type: ignore[misc]  # that of the Typer class beside this one
        for param in params:
            if getattr(param, "is_flag", False) and param.metavar is None:
                param.metavar = ""
        return params


class Program(_PlainHelp, TyperGroup):
    """`hvlite` itself."""


class Command(_PlainHelp, TyperCommand):
    """A command whose paths may begin with `~`, also behind `=`, where the shell leaves it as it is."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """The arguments that are left, as Typer has it; the values wait in the context."""
        try:
            left = super().parse_args(ctx, spell_out_size(args))
        except USAGE_ERROR as error:
            raise _named(error, ctx.command_path) from None
        ctx.params = {name: _at_home(value) for name, value in ctx.params.items()}
        return left


def _named(error: Any, command: str) -> ConfigError:
    """A mistake in the command line as one line, with the command whose help says more."""
    message = " ".join(error.format_message().split())
    if any(f"'{name}'" in message for name in SIZE_OPTIONS):
        return ConfigError(message, hint="--size HEIGHT WIDTH, as in --size 720 1280")
    return ConfigError(message, hint=f"{command} --help lists what there is")


def _at_home(value: Any) -> Any:
    if isinstance(value, tuple | list):
        return type(value)(map(_at_home, value))
    if not isinstance(value, Path) or not str(value).startswith("~"):
        return value
    try:
        return value.expanduser()
    except RuntimeError:
        raise ConfigError(
            f"{value}: {value.parts[0]} is nobody's home folder", hint="a folder of that name needs its whole path"
        ) from None
