"""Paths on a command line, before anything else is done with them."""

from __future__ import annotations

import tempfile
from pathlib import Path

from ..errors import ConfigError
from ..files import write_error


def require_path(path: Path, what: str) -> None:
    """A path that leads nowhere is a slip of the pen (2), not a damaged model (3)."""
    try:
        there = path.expanduser().exists()
    except (OSError, RuntimeError) as error:
        raise ConfigError(f"{what} {path}: {error}", hint="check the path") from None
    if not there:
        raise ConfigError(f"{what} {path} does not exist", hint="check the path")


def require_writable(path: Path, what: str) -> None:
    """A file that is written at the end of long work can be written: asked before, by making a file beside it.

    ConfigError where the path cannot be right, DiskError where its folder takes no file. Nothing stays there.
    """
    from ..lite.request.output_checks import check_path_text

    check_path_text(path, what)
    if path.is_dir():
        raise ConfigError(f"{what} {path} is a folder", hint=f"name a file, as in {what} {path / 'NAME'}")
    if path.exists() and not path.is_file():
        raise ConfigError(f"{what} {path} is not a regular file", hint="choose another name")
    if not path.parent.is_dir():
        raise ConfigError(f"{what} {path}: the folder {path.parent} does not exist", hint=f"mkdir -p '{path.parent}'")
    try:
        with tempfile.TemporaryFile(dir=path.parent) as file:
            file.write(b"-")
    except OSError as error:
        raise write_error(path, error) from error


def require_png(path: Path, what: str, *, force: bool) -> None:
    """A picture can be written there, and with `force` alone replaces what is there."""
    if path.suffix.lower() != ".png":
        raise ConfigError(f"{what} {path}: only a PNG is drawn", hint=f"{what} {path.with_suffix('.png')}")
    require_writable(path, what)
    if path.exists() and not force:
        raise ConfigError(f"{what} {path} exists already", hint=f"--force replaces it, {what} takes another name")
