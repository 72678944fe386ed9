"""report.png: the relative error of every quantized weight by block."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from ..charts.chart import Chart, Series, Span
from ..charts.drawing import draw_chart
from .scheme import SCHEMES

_BLOCK = re.compile(r"(layers|double_blocks|single_blocks)\.(\d+)\.")
_KINDS = ("layers", "double_blocks", "single_blocks")
_KIND_NAMES = ("text encoder layers", "double blocks", "single blocks")
_NUMBERED = 5  # every fifth block, where there are many
_FEW = 20
Layer = Mapping[str, Any]
Block = tuple[int, int]  # kind, index: the order from left to right


def draw_report(layers: Iterable[Layer]) -> bytes:
    """A PNG with one dot for each quantized weight of a block. It depends on the versions of the libraries that draw."""
    return draw_chart(report_chart(layers))


def report_chart(layers: Iterable[Layer]) -> Chart:
    """Blocks from left to right, relative error upwards from zero, a series for each scheme."""
    found = [(block, layer) for layer in layers if _is_quantized(layer) and (block := _block(layer["name"]))]
    blocks = sorted({block for block, _ in found})
    schemes = sorted({layer["scheme"] for _, layer in found})
    points = {
        scheme: tuple(
            (float(blocks.index(block)), layer["relative_error"]) for block, layer in found if layer["scheme"] == scheme
        )
        for scheme in schemes
    }
    return Chart(
        title="Relative error of every quantized weight, by block",
        x_name="block",
        y_name="relative error",
        series=tuple(Series(name=scheme, points=points[scheme], shape="dots") for scheme in schemes),
        ticks=tuple((float(place), str(index)) for place, (_, index) in enumerate(blocks) if _is_numbered(index, blocks)),
        spans=tuple(_spans(blocks)),
        instead="no weight of a block is quantized",
        height_px=560,
    )


def _is_quantized(layer: Layer) -> bool:
    return SCHEMES[layer["scheme"].partition(":")[0]].quantized


def _block(name: str) -> Block | None:
    match = _BLOCK.search(name)
    return (_KINDS.index(match[1]), int(match[2])) if match else None


def _is_numbered(index: int, blocks: list[Block]) -> bool:
    return len(blocks) <= _FEW or index % _NUMBERED == 0


def _spans(blocks: list[Block]) -> Iterable[Span]:
    """Each kind of block, half a block beyond its first and last."""
    for kind, name in enumerate(_KIND_NAMES):
        places = [place for place, (of, _) in enumerate(blocks) if of == kind]
        if places:
            yield Span(start=places[0] - 0.5, end=places[-1] + 0.5, name=name)
