"""Two runs into one folder: the second is refused by name; a dead one holds nothing."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from conversions import Conversion, convert_options, with_threads
from rivals import other_settings, run_beside
from scenarios import differences, quiet_fork, read_tree, write_fresh

from hvlite.errors import ConfigError
from hvlite.quantize import convert
from hvlite.quantize.convert import Progress, run_quantize


@pytest.mark.parametrize("name", ["new", "resumed", "replaced", "anew"])
def test_a_second_run_is_refused_and_the_first_goes_on(
    conversions: dict[str, Conversion], base: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(convert, "_workers", with_threads)
    assert run_beside(conversions[name], base) == []


def test_other_settings_are_refused(conversions: dict[str, Conversion], base: Path) -> None:
    assert other_settings(conversions["new"], base) == []


def test_a_killed_holder_holds_nothing(conversions: dict[str, Conversion], base: Path) -> None:
    """Two processes: while the first is at work the second is refused with its number; then the first is killed."""
    conversion = conversions["new"]
    folder = write_fresh(base, conversion.start)
    reading, writing = os.pipe()
    child = quiet_fork()
    if child == 0:
        _hold(conversion, folder, writing)
    os.close(writing)
    assert os.read(reading, 1) == b"!", "the first process did not get so far"
    os.close(reading)
    with pytest.raises(ConfigError, match=rf"another run \(process {child}\)"):
        conversion.run(folder)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    result = conversion.run(folder)
    assert result.files_kept == 2
    assert differences(read_tree(folder / "out"), conversion.wanted) == []


def _hold(conversion: Conversion, folder: Path, writing: int) -> None:
    """Convert two files, say so, and wait for the end."""

    def wait(progress: Progress) -> None:
        if progress.files_done == 2:
            os.write(writing, b"!")
            signal.pause()

    try:
        run_quantize(convert_options(conversion.source, folder), wait)
    finally:
        os._exit(1)
