"""Charts as values: what is shown, in the units of the axes. How it is drawn is in drawing.py."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Point = tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class Series:
    """Points of one kind; its name is the legend's, a nameless one is not in it.

    labels: a text for each point, "" for none. ranges: the least and the largest value behind each point.
    x of bars counts the groups they stand in: 0, 1, ... Dashes are guides: the y axis ends where the others do.
    """

    name: str = ""
    points: tuple[Point, ...]
    shape: Literal["dots", "line", "dotted line", "dashes", "bars"] = "dotted line"
    labels: tuple[str, ...] = ()
    ranges: tuple[tuple[float, float], ...] = ()


@dataclass(frozen=True, kw_only=True)
class Span:
    """A named stretch of the x axis."""

    start: float
    end: float
    name: str


@dataclass(frozen=True, kw_only=True)
class Chart:
    """Two axes and what is drawn over them.

    note: a line below the title, the conditions of a measurement. ticks: the only places marked on the x axis, by name.
    instead: what is said in place of a chart without points.
    """

    title: str
    x_name: str
    y_name: str
    series: tuple[Series, ...]
    note: str = ""
    log_x: bool = False
    log_y: bool = False
    ticks: tuple[tuple[float, str], ...] = ()
    spans: tuple[Span, ...] = ()
    instead: str = ""
    width_px: int = 1320
    height_px: int = 680

    @property
    def empty(self) -> bool:
        """Whether there is no point in it."""
        return not any(each.points for each in self.series)

    @property
    def named(self) -> bool:
        """Whether names stand among the points."""
        return bool(self.spans) or any(any(each.labels) for each in self.series)

    @property
    def legend(self) -> list[str]:
        """The names in the legend."""
        return [each.name for each in self.series if each.name and each.points]

    def values(self) -> tuple[list[float], list[float]]:
        """All x; and all y with the ends of the ranges, but for guides."""
        across = [x for each in self.series for x, _ in each.points]
        measured = [each for each in self.series if each.shape != "dashes"]
        ends = [end for each in measured for ends in each.ranges for end in ends]
        return across, [*(y for each in measured for _, y in each.points), *ends]
