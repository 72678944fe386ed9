"""The door to matplotlib: loaded when the first chart is drawn, without a trace outside of the process."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import DiskError

if TYPE_CHECKING:
    from matplotlib.typing import RcKeyType

# On top of matplotlib's defaults.
STYLE: dict[RcKeyType, Any] = {
    "font.family": ["DejaVu Sans"],  # it comes with matplotlib
    "font.size": 10,
    "axes.axisbelow": True,
    "axes.edgecolor": "#666666",
    "axes.grid": True,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "grid.color": "#e4e4e4",
    "legend.frameon": False,
}


@contextmanager
def plotting_style() -> Iterator[None]:
    """matplotlib with our settings, whatever the user's own are; inside it the same chart gives the same bytes."""
    _load()
    import matplotlib

    with matplotlib.rc_context():  # puts the user's back
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(STYLE)
        yield


def font_file() -> Path:
    """The font of the charts, for pictures that are not charts: it has the letters of most European languages."""
    _load()
    import matplotlib

    return Path(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf")


def _load() -> None:
    """Import matplotlib; the first import of a process would list the system's fonts in the user's home directory.

    That takes seconds and would make a picture depend on what is installed; where the home cannot be written to,
    matplotlib also warns. A program that has matplotlib loaded already keeps it as it is. Raises DiskError.
    """
    if "matplotlib" in sys.modules:
        return
    with _temporary_folder() as folder, _environment(MPLCONFIGDIR=folder, MPL_IGNORE_SYSTEM_FONTS="1"):
        import matplotlib.font_manager  # makes the list as it is loaded

        matplotlib.get_configdir()  # is asked for later as well, and remembered


def _temporary_folder() -> tempfile.TemporaryDirectory[str]:
    try:
        return tempfile.TemporaryDirectory(prefix="hvlite-")
    except OSError as error:
        raise DiskError(
            f"drawing needs a temporary folder: {error.strerror or error}",
            hint="set TMPDIR to a folder that can be written to, and run the same command again",
        ) from error


@contextmanager
def _environment(**values: str) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
