"""report.png: the relative error of every quantized weight by block, drawn without a plotting library."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from .canvas import BLACK, GREY, Canvas, blank, encode_png, write

WIDTH, HEIGHT = 1200, 420
LEFT, RIGHT, TOP, BOTTOM = 80, 20, 40, 50
GRID_LINES = 4
COLOURS = {"fp8": (38, 99, 235), "int8": (217, 119, 6), "int4": (190, 24, 93), "nf4": (5, 150, 105)}

_BLOCK = re.compile(r"(double_blocks|single_blocks|layers)\.(\d+)\.")
_KINDS = {"layers": 0, "double_blocks": 1, "single_blocks": 2}
Layer = Mapping[str, Any]


def draw_report(layers: Iterable[Layer]) -> bytes:
    """A PNG with one dot for each quantized weight: blocks from left to right, relative error upwards from zero."""
    points = [(_block(layer), layer) for layer in layers if _is_drawn(layer)]
    canvas = blank(HEIGHT, WIDTH)
    columns = {block: index for index, block in enumerate(sorted({block for block, _ in points}))}
    top = max((layer["relative_error"] for _, layer in points), default=1.0) * 1.1
    _draw_axes(canvas, top)
    step = (WIDTH - LEFT - RIGHT) / max(1, len(columns))
    for block, index in columns.items():
        _label_block(canvas, block, int(LEFT + (index + 0.5) * step), first=index == 0)
    for block, layer in points:
        x, y = int(LEFT + (columns[block] + 0.5) * step), _height(layer["relative_error"], top)
        canvas[y - 3 : y + 4, x - 3 : x + 4] = COLOURS[layer["scheme"].partition(":")[0]]
    _draw_legend(canvas, sorted({layer["scheme"] for _, layer in points}))
    return encode_png(canvas)


def _is_drawn(layer: Layer) -> bool:
    return (
        layer["scheme"].partition(":")[0] in COLOURS
        and "relative_error" in layer
        and bool(_BLOCK.search(layer["name"]))
    )


def _block(layer: Layer) -> tuple[int, int, str]:
    """Where a layer stands from left to right: kind, index, and the kind's name."""
    match = _BLOCK.search(layer["name"])
    assert match
    return _KINDS[match[1]], int(match[2]), match[1]


def _height(error: float, top: float) -> int:
    return round(HEIGHT - BOTTOM - error / top * (HEIGHT - TOP - BOTTOM))


def _draw_axes(canvas: Canvas, top: float) -> None:
    for line in range(GRID_LINES + 1):
        y = _height(top * line / GRID_LINES, top)
        canvas[y, LEFT : WIDTH - RIGHT] = GREY
        write(canvas, f"{top * line / GRID_LINES:.4f}", 10, y - 5)
    canvas[TOP : HEIGHT - BOTTOM, LEFT] = BLACK
    write(canvas, "relative error of each weight by block", LEFT, 12)


def _label_block(canvas: Canvas, block: tuple[int, int, str], x: int, *, first: bool) -> None:
    _, index, kind = block
    if index % 5 == 0:
        write(canvas, str(index), x - 4, HEIGHT - BOTTOM + 8)
    if index == 0:
        write(canvas, kind.replace("_", " "), x - 4, HEIGHT - 22)
        if not first:
            canvas[TOP : HEIGHT - BOTTOM, x - 8] = GREY


def _draw_legend(canvas: Canvas, schemes: list[str]) -> None:
    for place, scheme in enumerate(schemes):
        x = WIDTH - RIGHT - 110 * (len(schemes) - place)
        canvas[13:21, x : x + 8] = COLOURS[scheme.partition(":")[0]]
        write(canvas, scheme, x + 14, 12)
