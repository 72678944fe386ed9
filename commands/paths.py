"""Paths on a command line, before anything else is done with them."""

from __future__ import annotations

from pathlib import Path

from ..errors import ConfigError


def require_path(path: Path, what: str) -> None:
    """A path that leads nowhere is a slip of the pen (2), not a damaged model (3)."""
    try:
        there = path.expanduser().exists()
    except (OSError, RuntimeError) as error:
        raise ConfigError(f"{what} {path}: {error}", hint="check the path") from None
    if not there:
        raise ConfigError(f"{what} {path} does not exist", hint="check the path")
