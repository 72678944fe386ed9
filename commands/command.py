"""What every command of `hvlite` does with its command line before the command sees it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from typer.core import TyperCommand

from ..errors import ConfigError


class Command(TyperCommand):
    """A command whose paths may begin with `~`, also behind `=`, where the shell leaves it as it is."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """The arguments that are left, as Typer has it; the values wait in the context."""
        left = super().parse_args(ctx, args)
        ctx.params = {name: _at_home(value) for name, value in ctx.params.items()}
        return left


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
