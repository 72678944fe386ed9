"""report.png: the relative error of every quantized weight by block."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from ..charts.chart import Chart, Point, Series, Span
from ..charts.drawing import draw_chart
from .scheme import SCHEMES

KINDS = {  # from left to right, and what the picture calls them
    "layers": "text encoder layers",
    "double_blocks": "double blocks",
    "single_blocks": "single blocks",
}
_BLOCK = re.compile(rf"({'|'.join(KINDS)})\.(\d+)\.")
FEW_BLOCKS, NUMBERED = 20, 5  # of more blocks than a few every fifth is numbered
Layer = Mapping[str, Any]
Block = tuple[int, int]  # kind, index: the order from left to right


def draw_report(layers: Iterable[Layer]) -> bytes:
    """A PNG with one dot for each quantized weight of a block."""
    return draw_chart(report_chart(layers))


def report_chart(layers: Iterable[Layer]) -> Chart:
    """Blocks from left to right, relative error upwards from zero, a series for each scheme."""
    found = [(block, layer) for layer in layers if _has_error(layer) and (block := _block(layer["name"]))]
    places = {block: float(place) for place, block in enumerate(sorted({block for block, _ in found}))}
    points: dict[str, list[Point]] = {scheme: [] for scheme in sorted(layer["scheme"] for _, layer in found)}
    for block, layer in found:
        points[layer["scheme"]].append((places[block], layer["relative_error"]))
    return Chart(
        title="Relative error of every quantized weight, by block",
        x_name="block",
        y_name="relative error",
        series=tuple(Series(name=scheme, points=tuple(each), shape="dots") for scheme, each in points.items()),
        ticks=tuple(_ticks(places)),
        spans=tuple(_spans(places)),
        instead="no weight of a block is quantized",
        height_px=560,
    )


def _has_error(layer: Layer) -> bool:
    """Whether a weight is quantized here; codes that were taken over are exact."""
    return "relative_error" in layer and SCHEMES[layer["scheme"].partition(":")[0]].quantized


def _block(name: str) -> Block | None:
    match = _BLOCK.search(name)
    return ([*KINDS].index(match[1]), int(match[2])) if match else None


def _ticks(places: Mapping[Block, float]) -> Iterator[tuple[float, str]]:
    for (_, index), place in places.items():
        if len(places) <= FEW_BLOCKS or index % NUMBERED == 0:
            yield place, str(index)


def _spans(places: Mapping[Block, float]) -> Iterator[Span]:
    """Each kind of block, from half a block before its first to half a block after its last."""
    for kind, name in enumerate(KINDS.values()):
        own = [place for (of, _), place in places.items() if of == kind]
        if own:
            yield Span(start=min(own) - 0.5, end=max(own) + 0.5, name=name)
