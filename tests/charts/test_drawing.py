"""What of a chart is in its figure: every value, name and unit, inside the limits, and labels that can be read."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import replace
from itertools import combinations

import pytest
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.text import Annotation
from matplotlib.transforms import Bbox

from hvlite.charts.chart import Chart, Series, Span
from hvlite.charts.drawing import SHADE, draw_chart, make_figure
from hvlite.charts.plotting_library import plotting_style
from hvlite.charts.scales import log_limits, log_ticks

LINES = Chart(
    title="speed",
    note="a card",
    x_name="tokens",
    y_name="time (s)",
    series=(
        Series(name="one", points=((64.0, 1.0), (160.0, 1.3)), labels=("a", "")),
        Series(name="other", points=((64.0, 1.01), (160.0, 1.4)), shape="dots", labels=("b", "c")),
        Series(points=((10.0, 0.1), (200.0, 1.4)), shape="dashes", labels=("", "a limit")),
    ),
    log_x=True,
    log_y=True,
)
BARS = Chart(
    title="tiers",
    x_name="size",
    y_name="time (s)",
    series=tuple(
        Series(
            name=name,
            points=((0.0, height), (1.0, 2 * height)),
            shape="bars",
            labels=(f"{height}", f"{2 * height}"),
            ranges=((0.9 * height, 1.2 * height), (1.9 * height, 2.4 * height)),
        )
        for name, height in (("resident", 1.0), ("host", 1.1), ("disk", 3.0))
    ),
    ticks=((0.0, "small"), (1.0, "large")),
)
SPANS = Chart(
    title="memory",
    x_name="time (s)",
    y_name="memory (MiB)",
    series=(Series(name="host", points=((0.0, 5.0), (4.0, 9.0), (10.0, 7.0)), shape="line"),),
    spans=(
        Span(start=0.0, end=9.7, name="text\n9.7 s"),
        Span(start=9.7, end=9.8, name="denoise\n0.1 s"),
        Span(start=9.8, end=10.0, name="decode\n0.2 s"),
    ),
)
CROWD = replace(  # twelve points in one place
    LINES,
    title="crowd",
    series=(
        Series(points=((64.0, 1.0),) * 12, shape="dots", labels=tuple(f"case {n}" for n in range(12))),
        *LINES.series,
    ),
)


def axes_of(figure: Figure) -> Axes:
    (axes,) = figure.axes
    return axes


@pytest.fixture
def style() -> Iterator[None]:
    with plotting_style():
        yield


@pytest.mark.usefixtures("style")
@pytest.mark.parametrize("chart", [LINES, BARS, SPANS, CROWD], ids=lambda chart: chart.title)
def test_names_units_and_every_point_are_in_it(chart: Chart) -> None:
    axes = axes_of(make_figure(chart))
    assert axes.get_title(loc="left") == chart.title
    assert (axes.get_xlabel(), axes.get_ylabel()) == (chart.x_name, chart.y_name)
    legend = axes.get_legend()
    assert legend
    assert [text.get_text() for text in legend.get_texts()] == [each.name for each in chart.series if each.name]
    written = [text.get_text() for text in axes.texts]
    wanted = [*(span.name for span in chart.spans), *(text for each in chart.series for text in each.labels if text)]
    assert written == [chart.note, *wanted]
    (left, right), (bottom, top) = axes.get_xlim(), axes.get_ylim()
    for x, y in (point for each in chart.series if each.shape != "dashes" for point in each.points):
        assert left <= x <= right
        assert bottom < y < top


@pytest.mark.usefixtures("style")
def test_lines_and_dots_have_the_values_and_the_colour_of_the_legend() -> None:
    axes = axes_of(make_figure(LINES))
    assert [[tuple(point) for point in line.get_xydata()] for line in axes.lines] == [
        [*each.points] for each in LINES.series
    ]
    assert [(line.get_linestyle(), line.get_marker()) for line in axes.lines] == [
        ("-", "o"),
        ("None", "o"),
        ("--", "None"),
    ]
    legend = axes.get_legend()
    assert legend
    assert [to_hex(line.get_color()) for line in legend.get_lines()] == [
        to_hex(line.get_color()) for line in axes.lines[:2]
    ]


@pytest.mark.usefixtures("style")
def test_bars_of_a_group_stand_side_by_side_around_its_name() -> None:
    axes = axes_of(make_figure(BARS))
    bars = [bar.get_bbox() for bar in axes.patches]
    assert [bar.height for bar in bars] == [y for each in BARS.series for _, y in each.points]
    assert all(one.x1 <= other.x0 + 1e-9 or other.x1 <= one.x0 + 1e-9 for one, other in combinations(bars, 2))
    small = bars[::2]
    assert (small[0].x0 + small[-1].x1) / 2 == pytest.approx(0)
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["small", "large"]
    ends = [[y for _, y in segment] for ranges in axes.collections for segment in ranges.get_segments()]
    assert ends == [pytest.approx(each) for series in BARS.series for each in series.ranges]
    assert axes.get_ylim()[0] == 0


@pytest.mark.usefixtures("style")
def test_spans_are_shaded_in_turn() -> None:
    axes = axes_of(make_figure(SPANS))
    (shaded,) = axes.patches
    assert to_hex(shaded.get_facecolor()) == SHADE
    assert (shaded.get_bbox().x0, shaded.get_bbox().x1) == (9.7, 9.8)
    assert axes.get_xlim() == (0, 10)


@pytest.mark.usefixtures("style")
@pytest.mark.parametrize("chart", [LINES, BARS, SPANS, CROWD], ids=lambda chart: chart.title)
def test_labels_lie_inside_and_not_on_one_another(chart: Chart) -> None:
    """In all but the crowd there is room for every label."""
    axes = axes_of(make_figure(chart))
    rooms = [text.get_window_extent() for text in axes.texts if isinstance(text, Annotation)]
    assert rooms
    if chart is not CROWD:
        assert not any(Bbox.intersection(one, other) for one, other in combinations(rooms, 2))
    assert all(axes.bbox.padded(2).containsx(x) for room in rooms for x in (room.x0, room.x1))
    assert all(axes.bbox.padded(2).containsy(y) for room in rooms for y in (room.y0, room.y1))


@pytest.mark.usefixtures("style")
def test_labels_of_bars_stand_beside_their_ranges() -> None:
    axes = axes_of(make_figure(BARS))
    rooms = [text.get_window_extent() for text in axes.texts if isinstance(text, Annotation)]
    segments = [segment for ranges in axes.collections for segment in ranges.get_segments()]
    lines = [axes.transData.transform(segment) for segment in segments]
    assert len(lines) == len(rooms) == 6
    for room in rooms:
        assert not any(room.x0 <= x <= room.x1 and room.y0 < high and low < room.y1 for (x, low), (_, high) in lines)


@pytest.mark.usefixtures("style")
def test_a_chart_without_a_point_says_so() -> None:
    nothing = replace(LINES, series=(Series(name="one", points=()),), instead="nothing was measured")
    assert nothing.empty
    axes = axes_of(make_figure(nothing))
    assert "nothing was measured" in [text.get_text() for text in axes.texts]
    assert not axes.axison


@pytest.mark.usefixtures("style")
def test_zeros_and_a_single_value_are_drawn() -> None:
    flat = replace(SPANS, spans=(), series=(Series(points=((0.0, 0.0),)),))
    assert axes_of(make_figure(flat)).get_ylim() == (0, pytest.approx(1.06))


@pytest.mark.parametrize("values", [[7.0], [0.02, 0.056], [64.0, 160.0], [1.0, 9e5], [3e-4, 1e3]])
def test_a_log_axis_holds_its_values_and_little_more_and_has_ticks(values: list[float]) -> None:
    low, high = log_limits(values)
    assert low < min(values)
    assert max(values) < high
    assert min(values) / low == pytest.approx(high / max(values))
    assert high / low <= max(2.0, 1.21 * (max(values) / min(values)) ** 1.16)
    ticks = log_ticks(low, high)
    assert 3 <= len(ticks) <= 12
    assert ticks == sorted(ticks)
    assert low <= ticks[0]
    assert ticks[-1] <= high


def test_a_png_of_the_size_asked_for_without_date_or_software() -> None:
    data = draw_chart(LINES)
    assert struct.unpack(">II", data[16:24]) == (LINES.width_px, LINES.height_px)
    chunks, at = [], 8
    while at < len(data):
        (length,) = struct.unpack(">I", data[at : at + 4])
        chunks.append(data[at + 4 : at + 8])
        at += 12 + length
    assert set(chunks) == {b"IHDR", b"pHYs", b"IDAT", b"IEND"}
