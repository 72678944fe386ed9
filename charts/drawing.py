"""Charts as PNG, by matplotlib. No pyplot: no window, and no figure outlives its call."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

from .chart import Chart, Span
from .placing import Label, place_labels
from .plotting_library import plotting_style
from .scales import set_scales

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DPI = 120
COLOURS = ("#2563eb", "#d97706", "#059669", "#be185d", "#7850c8", "#148caa", "#6e6e6e")
INK, GREY, SHADE = "#333333", "#666666", "#eef2f6"
DOT_PT = 6.0  # across
LEGEND_PT, NOTE_PT, LEAST_GAP_PT = 25.0, 17.0, 6.0  # the height of these lines
EDGE_INCHES = 0.12
BARS_SHARE = 0.75  # of the room of a group
LOOKS: dict[str, dict[str, Any]] = {
    "dots": {"linestyle": "none", "marker": "o", "alpha": 0.8},
    "line": {"linestyle": "-"},
    "dotted line": {"linestyle": "-", "marker": "o"},
    "dashes": {"linestyle": "--"},
}


def draw_chart(chart: Chart) -> bytes:
    """A PNG of `width_px` by `height_px`. Equal charts give equal bytes, with the same versions of the libraries.

    Raises DiskError where there is no temporary folder to load matplotlib with.
    """
    file = io.BytesIO()
    with plotting_style():
        # matplotlib would also write its name and version into the file.
        make_figure(chart).savefig(file, format="png", metadata={"Software": None})
    return file.getvalue()


def make_figure(chart: Chart) -> Figure:
    """The chart as a figure of matplotlib. To be called inside `plotting_style`."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(chart.width_px / DPI, chart.height_px / DPI), dpi=DPI)
    figure.set_layout_engine("constrained", w_pad=EDGE_INCHES, h_pad=EDGE_INCHES)
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    _write_names(axes, chart)
    if chart.empty:
        axes.text(0.5, 0.5, chart.instead, ha="center", va="center", color=GREY, transform=axes.transAxes)
        axes.set_axis_off()
        return figure
    labels = [label for index in range(len(chart.series)) for label in _draw_series(axes, chart, index)]
    set_scales(axes, chart)
    if chart.legend:
        axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=len(chart.legend), borderpad=0.2, borderaxespad=0.2)
    figure.draw_without_rendering()  # lays it out: only then can labels be placed
    figure.set_layout_engine("none")
    place_labels(axes, [*_span_labels(chart.spans), *labels], DOT_PT * DPI / 72)
    for span in chart.spans[1::2]:
        axes.axvspan(span.start, span.end, color=SHADE, zorder=0, linewidth=0)
    return figure


def _write_names(axes: Axes, chart: Chart) -> None:
    """Above the axes title, note and, drawn later, the legend, a line each; beside the axes what they show."""
    from matplotlib.transforms import offset_copy

    note = LEGEND_PT if chart.legend else LEAST_GAP_PT
    title = note + NOTE_PT if chart.note else note
    axes.set_title(chart.title, loc="left", fontsize=14, fontweight="bold", pad=title)
    place = offset_copy(axes.transAxes, axes.get_figure(root=True), y=note, units="points")
    axes.text(0, 1, chart.note, transform=place, fontsize=9, color=GREY)
    axes.set_xlabel(chart.x_name)
    axes.set_ylabel(chart.y_name)


def _draw_series(axes: Axes, chart: Chart, index: int) -> list[Label]:
    """One series in its colour; the labels it asks for."""
    series, colour = chart.series[index], COLOURS[index % len(COLOURS)]
    x, y = _places(chart, index), [value for _, value in series.points]
    name, is_bars = series.name or None, series.shape == "bars"
    if is_bars:
        axes.bar(x, y, width=_bar_width(chart), color=colour, label=name)
    else:
        look = LOOKS[series.shape]
        axes.plot(x, y, color=colour, label=name, markersize=DOT_PT, markeredgecolor="white", **look)
        axes.margins(x=0.02)
    if series.ranges:
        ends = [low for low, _ in series.ranges], [high for _, high in series.ranges]
        _draw_ranges(axes, x, y, ends, INK if is_bars else colour)
    ink = colour if series.shape in ("line", "dashes") else INK
    return [Label((left, top), text, ink) for left, top, text in zip(x, y, series.labels, strict=False) if text]


def _draw_ranges(
    axes: Axes, x: list[float], y: list[float], ends: tuple[list[float], list[float]], colour: str
) -> None:
    below = [value - low for value, low in zip(y, ends[0], strict=True)]
    above = [high - value for value, high in zip(y, ends[1], strict=True)]
    axes.errorbar(x, y, yerr=(below, above), fmt="none", ecolor=colour, elinewidth=1, capsize=3)


def _bars(chart: Chart) -> list[int]:
    return [index for index, each in enumerate(chart.series) if each.shape == "bars"]


def _bar_width(chart: Chart) -> float:
    return BARS_SHARE / len(_bars(chart))


def _places(chart: Chart, index: int) -> list[float]:
    """x of every point; the bars of a group stand side by side around it."""
    series, shift = chart.series[index], 0.0
    if series.shape == "bars":
        bars = _bars(chart)
        shift = (bars.index(index) - (len(bars) - 1) / 2) * _bar_width(chart)
    return [x + shift for x, _ in series.points]


def _span_labels(spans: tuple[Span, ...]) -> list[Label]:
    return [Label(((span.start + span.end) / 2, 1.0), span.name, INK, hanging=True) for span in spans]
