"""Charts of points and lines over two axes, linear or logarithmic, as PNG. Drawn with quantize/canvas.py."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from ..quantize.canvas import BLACK, GREY, Canvas, Colour, blank, encode_png, line, text_width, write

WIDTH, HEIGHT = 1100, 560
LEFT, RIGHT, TOP, BOTTOM = 110, 30, 60, 70
DOT = 4
COLOURS: tuple[Colour, ...] = (
    (38, 99, 235),
    (217, 119, 6),
    (5, 150, 105),
    (190, 24, 93),
    (120, 80, 200),
    (20, 140, 170),
    (110, 110, 110),
)
Point = tuple[float, float]


@dataclass(frozen=True)
class Series:
    """Points of one kind; `joined` by lines, `dotted` with a dot on each. `labels` stand beside the dots."""

    name: str
    points: tuple[Point, ...]
    joined: bool = False
    dotted: bool = True
    labels: tuple[str, ...] = ()


@dataclass(frozen=True)
class Chart:
    """Two axes and what is drawn over them. `marks`: names at places of the x axis, with a line each."""

    title: str
    x_name: str
    y_name: str
    series: tuple[Series, ...]
    log_x: bool = False
    log_y: bool = False
    marks: tuple[tuple[float, str], ...] = ()

    def draw(self) -> bytes | None:
        """A PNG; None where there is no point."""
        points = [point for each in self.series for point in each.points]
        if not points:
            return None
        canvas = blank(HEIGHT, WIDTH)
        across = Axis.over([x for x, _ in points] + [x for x, _ in self.marks], LEFT, WIDTH - RIGHT, log=self.log_x)
        upward = Axis.over([y for _, y in points], HEIGHT - BOTTOM, TOP, log=self.log_y)
        _draw_frame(canvas, self, across, upward)
        for index, each in enumerate(self.series):
            _draw_series(canvas, each, COLOURS[index % len(COLOURS)], across, upward)
        _draw_legend(canvas, [each.name for each in self.series])
        return encode_png(canvas)


@dataclass(frozen=True)
class Axis:
    """Values low..high onto dots start..end."""

    low: float
    high: float
    start: int
    end: int
    log: bool

    @classmethod
    def over(cls, values: Sequence[float], start: int, end: int, *, log: bool) -> Axis:
        """An axis that holds the values: from zero, or from the power of ten below the least where it is logarithmic.

        A logarithmic axis takes values above zero.
        """
        if log:
            low, high = (math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)) + 1e-9))
            return cls(low, max(high, low + 1), start, end, log)
        return cls(min(0.0, *values), max(max(values) * 1.08, 1e-12), start, end, log)

    def at(self, value: float) -> int:
        """The dot of a value."""
        place = math.log10(value) if self.log else value
        return round(self.start + (place - self.low) / (self.high - self.low) * (self.end - self.start))

    def ticks(self) -> list[float]:
        """Values to write beside the axis."""
        if self.log:
            return [10.0**power for power in range(int(self.low), int(self.high) + 1)]
        step = _round_step((self.high - self.low) / 6)
        return [step * index for index in range(math.ceil(self.low / step), math.floor(self.high / step) + 1)]


def _round_step(rough: float) -> float:
    """1, 2 or 5 times a power of ten, at least `rough`."""
    power = 10.0 ** math.floor(math.log10(rough))
    return next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough)


def _draw_frame(canvas: Canvas, chart: Chart, across: Axis, upward: Axis) -> None:
    for value in upward.ticks():
        y = upward.at(value)
        canvas[y, LEFT : WIDTH - RIGHT] = GREY
        text = _number(value)
        write(canvas, text, LEFT - 8 - text_width(text), y - 5)
    for value in () if chart.marks else across.ticks():
        x = across.at(value)
        canvas[TOP : HEIGHT - BOTTOM, x] = GREY
        write(canvas, _number(value), x - text_width(_number(value)) // 2, HEIGHT - BOTTOM + 8)
    for row, (value, name) in enumerate(chart.marks):
        canvas[TOP : HEIGHT - BOTTOM, across.at(value)] = GREY
        write(canvas, name, across.at(value) + 3, HEIGHT - BOTTOM + 6 + row % 3 * 13)
    canvas[TOP : HEIGHT - BOTTOM, LEFT : LEFT + 2] = BLACK
    canvas[HEIGHT - BOTTOM : HEIGHT - BOTTOM + 2, LEFT : WIDTH - RIGHT] = BLACK
    write(canvas, chart.title, LEFT, 10, size=3)
    write(canvas, chart.y_name, 8, TOP - 18)
    write(canvas, chart.x_name, WIDTH - RIGHT - text_width(chart.x_name), HEIGHT - 18)


def _draw_series(canvas: Canvas, series: Series, colour: Colour, across: Axis, upward: Axis) -> None:
    dots = [(across.at(x), upward.at(y)) for x, y in series.points]
    if series.joined:
        for start, end in pairwise(dots):
            line(canvas, start, end, colour)
    for index, (x, y) in enumerate(dots if series.dotted else ()):
        canvas[y - DOT : y + DOT + 1, x - DOT : x + DOT + 1] = colour
        if index < len(series.labels):
            width = text_width(series.labels[index], 1)
            write(canvas, series.labels[index], min(x + 8, WIDTH - width), y - 2, size=1)


def _draw_legend(canvas: Canvas, names: Sequence[str]) -> None:
    x = LEFT
    for index, name in enumerate(names):
        canvas[38:46, x : x + 8] = COLOURS[index % len(COLOURS)]
        write(canvas, name, x + 14, 37)
        x += 30 + text_width(name)


def _number(value: float) -> str:
    if value and not 1e-3 <= abs(value) < 1e5:
        return f"1e{round(math.log10(abs(value)))}"
    return f"{value:.4g}"
