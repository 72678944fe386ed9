"""Labels beside their points, where they cover neither each other nor what is drawn."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.text import Annotation
    from matplotlib.transforms import Bbox

Place = tuple[float, float, str, str]  # from the point, in points of type; the text's side that is put there
GAP = 6.0
BESIDE: tuple[Place, ...] = (
    (0, GAP, "center", "bottom"),
    (GAP, 0, "left", "center"),
    (-GAP, 0, "right", "center"),
    (0, -GAP, "center", "top"),
    (GAP, GAP, "left", "bottom"),
    (-GAP, GAP, "right", "bottom"),
    (GAP, -GAP, "left", "top"),
    (-GAP, -GAP, "right", "top"),
    *((0, GAP + 12 * row, "center", "bottom") for row in (1, 2, 3)),
)
ROWS: tuple[Place, ...] = tuple(  # below the top of the axes
    (0, -4 - 25 * row, side, "top") for row in range(4) for side in ("center", "right", "left")
)
MARGIN = 1.06  # a text's room, as a multiple of its size
LINE_PIECES, LINE_PX = 40, 3


@dataclass(frozen=True)
class Label:
    """A text for a point; `hanging`: y is left out, the text hangs from the top of the axes."""

    point: tuple[float, float]
    text: str
    colour: str
    hanging: bool = False


def place_labels(axes: Axes, labels: Sequence[Label], dot_px: float) -> None:
    """Write the labels, one after the other, each at the first of its places that is free, else the freest.

    To be called when the layout of the figure is settled.
    """
    taken = [*_drawn(axes, dot_px)]
    for label in labels:
        text = _write(axes, label)
        places = ROWS if label.hanging else BESIDE
        best = min(places, key=lambda place: _cost(axes, _move(text, place), taken))
        taken.append(_move(text, best))


def _write(axes: Axes, label: Label) -> Annotation:
    coordinates = axes.get_xaxis_transform() if label.hanging else axes.transData
    return axes.annotate(
        label.text,
        label.point,
        xytext=(0, 0),
        xycoords=coordinates,
        textcoords="offset points",
        color=label.colour,
        fontsize=9,
        annotation_clip=False,
    )


def _move(text: Annotation, place: Place) -> Bbox:
    """Put a text at a place; the room it takes there, in pixels."""
    x, y, side, height = place
    text.set_position((x, y))
    text.set(ha=side, va=height)
    return text.get_window_extent().expanded(MARGIN, MARGIN)


def _cost(axes: Axes, room: Bbox, taken: Iterable[Bbox]) -> float:
    """Pixels of a text that lie on something, or outside of the axes."""
    outside = room.width * room.height - _shared(room, axes.bbox)
    return outside + sum(_shared(room, other) for other in taken)


def _shared(one: Bbox, other: Bbox) -> float:
    width = min(one.x1, other.x1) - max(one.x0, other.x0)
    height = min(one.y1, other.y1) - max(one.y0, other.y0)
    return max(0.0, width) * max(0.0, height)


def _drawn(axes: Axes, dot_px: float) -> Iterator[Bbox]:
    """Boxes around all that is drawn: dots, lines, ranges, bars."""
    from matplotlib.collections import LineCollection

    for line in axes.lines:
        places = axes.transData.transform(line.get_xydata())
        if line.get_marker() not in ("", "None"):
            yield from (_box(x, y, dot_px) for x, y in places)
        if line.get_linestyle() != "None":
            yield from _along(places)
    for ranges in axes.collections:
        assert isinstance(ranges, LineCollection)
        for segment in ranges.get_segments():
            yield from _along(axes.transData.transform(segment))
    for bar in axes.patches:
        yield bar.get_window_extent()


def _along(places: Iterable[tuple[float, float]]) -> Iterator[Bbox]:
    """Small boxes along a line through some points."""
    for (x0, y0), (x1, y1) in pairwise(places):
        for part in (step / LINE_PIECES for step in range(LINE_PIECES + 1)):
            yield _box(x0 + (x1 - x0) * part, y0 + (y1 - y0) * part, LINE_PX)


def _box(x: float, y: float, side: float) -> Bbox:
    from matplotlib.transforms import Bbox

    return Bbox.from_bounds(x - side / 2, y - side / 2, side, side)
