"""matplotlib is loaded late, leaves nothing behind, and draws the same whatever the user's own settings are."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import matplotlib

from hvlite.charts.chart import Chart, Series
from hvlite.charts.drawing import draw_chart
from hvlite.charts.plotting_library import font_file, plotting_style

DRAW = """
import os, sys
from hvlite.charts.chart import Chart, Series
from hvlite.charts.chart import Chart, Series
from hvlite.charts.drawing import draw_chart
assert "matplotlib" not in sys.modules
before = dict(os.environ)
series = Series(name="s", points=((1, 2), (3, 4)), labels=("a", "b"))
chart = Chart(title="Größe", x_name="x", y_name="y", series=(series,))
png = draw_chart(chart)
assert draw_chart(chart) == png
assert dict(os.environ) == before
assert "matplotlib.pyplot" not in sys.modules
from matplotlib import font_manager, get_data_path
assert all(font.fname.startswith(get_data_path()) for font in font_manager.fontManager.ttflist)
sys.stdout.buffer.write(png)
"""


def draw(folder: Path, **environment: str) -> bytes:
    """The chart drawn by another process, with an empty home and temporary folder; it must not say a word."""
    home, temporary, work = (folder / name for name in ("home", "tmp", "work"))
    for path in (home, temporary, work):
        path.mkdir(exist_ok=True)
    values = {"HOME": str(home), "TMPDIR": str(temporary), **environment}
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("MPL", "XDG_"))}
    command = [sys.executable, "-W", "error", "-c", DRAW]
    done = subprocess.run(command, cwd=work, env={**kept, **values}, capture_output=True, check=True)
    assert done.stderr == b""
    assert [*home.iterdir(), *temporary.iterdir()] == []
    return done.stdout


def test_equal_charts_are_equal_files_in_any_process_and_nothing_is_left(tmp_path: Path) -> None:
    plain = draw(tmp_path)
    (tmp_path / "work" / "matplotlibrc").write_text("font.size: 20\nlines.linewidth: 9\nsavefig.dpi: 50\n")
    fonts = tmp_path / "data" / "fonts"
    fonts.mkdir(parents=True)
    shutil.copyfile(font_file().with_name("DejaVuSerif.ttf"), fonts / "installed.ttf")
    assert draw(tmp_path, LC_ALL="C", TZ="Asia/Tokyo", XDG_DATA_HOME=str(tmp_path / "data")) == plain


def test_a_home_that_is_not_there_is_not_missed(tmp_path: Path) -> None:
    assert draw(tmp_path, HOME="/proc/none").startswith(b"\x89PNG")


def test_no_temporary_folder_is_an_error_that_says_what_to_do() -> None:
    code = f"import tempfile; tempfile.tempdir = '/proc/none'\n{DRAW}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "DiskError: drawing needs a temporary folder" in done.stderr


def test_a_program_keeps_the_settings_it_had() -> None:
    before = matplotlib.rcParams["font.size"]
    try:
        matplotlib.rcParams["font.size"] = 33
        one = Chart(title="t", x_name="x", y_name="y", series=(Series(points=((1.0, 2.0),)),))
        data = draw_chart(one)
        assert matplotlib.rcParams["font.size"] == 33
        with plotting_style():
            assert matplotlib.rcParams["font.size"] == 10
    finally:
        matplotlib.rcParams["font.size"] = before
    assert draw_chart(one) == data


def test_the_font_came_with_matplotlib() -> None:
    assert font_file().is_file()
    assert font_file().is_relative_to(Path(matplotlib.__file__).parent)


def test_what_may_draw_loads_no_drawing_library_before_it_draws() -> None:
    modules = "quantize.convert", "benchmarks.plots", "benchmarks.video_compare", "benchmarks.soak"
    imports = ", ".join(f"hvlite.{module}" for module in modules)
    code = f"import sys, {imports}; print({{'matplotlib', 'PIL'}} & set(sys.modules) or 'nothing')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "nothing"
