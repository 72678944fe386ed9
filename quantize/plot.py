"""report.png: the relative error of every quantized weight by block, drawn without a plotting library."""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

WIDTH, HEIGHT = 1200, 420
LEFT, RIGHT, TOP, BOTTOM = 80, 20, 40, 50
GRID_LINES = 4
WHITE, BLACK, GREY = (255, 255, 255), (30, 30, 30), (215, 215, 215)
COLOURS = {"fp8": (38, 99, 235), "int8": (217, 119, 6), "int4": (190, 24, 93), "nf4": (5, 150, 105)}

_BLOCK = re.compile(r"(double_blocks|single_blocks|layers)\.(\d+)\.")
_KINDS = {"layers": 0, "double_blocks": 1, "single_blocks": 2}
# Five rows of three dots a character.
_FONT = {
    "0": (7, 5, 5, 5, 7), "1": (2, 6, 2, 2, 7), "2": (7, 1, 7, 4, 7), "3": (7, 1, 7, 1, 7), "4": (5, 5, 7, 1, 1),
    "5": (7, 4, 7, 1, 7), "6": (7, 4, 7, 5, 7), "7": (7, 1, 1, 2, 2), "8": (7, 5, 7, 5, 7), "9": (7, 5, 7, 1, 7),
    ".": (0, 0, 0, 0, 2), " ": (0, 0, 0, 0, 0), ":": (0, 2, 0, 2, 0), "_": (0, 0, 0, 0, 7), "-": (0, 0, 7, 0, 0),
    "a": (0, 3, 5, 5, 3), "b": (4, 6, 5, 5, 6), "c": (0, 3, 4, 4, 3), "d": (1, 3, 5, 5, 3), "e": (2, 5, 7, 4, 3),
    "f": (3, 4, 6, 4, 4), "g": (3, 5, 3, 1, 6), "i": (2, 0, 2, 2, 2), "k": (4, 5, 6, 5, 5), "l": (6, 2, 2, 2, 7),
    "m": (0, 7, 7, 5, 5), "n": (0, 6, 5, 5, 5), "o": (0, 2, 5, 5, 2), "p": (0, 6, 5, 6, 4), "r": (0, 3, 4, 4, 4),
    "s": (3, 4, 2, 1, 6), "t": (2, 7, 2, 2, 3), "u": (0, 5, 5, 5, 3), "v": (0, 5, 5, 5, 2), "w": (0, 5, 5, 7, 7),
    "h": (4, 6, 5, 5, 5), "x": (0, 5, 2, 2, 5), "y": (5, 5, 3, 1, 6),
}  # fmt: skip

Canvas = NDArray[np.uint8]
Colour = tuple[int, int, int]
Layer = Mapping[str, Any]


def draw_report(layers: Iterable[Layer]) -> bytes:
    """A PNG with one dot for each quantized weight: blocks from left to right, relative error upwards from zero."""
    points = [(_block(layer), layer) for layer in layers if _is_drawn(layer)]
    canvas: Canvas = np.full((HEIGHT, WIDTH, 3), WHITE, dtype=np.uint8)
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
        _write(canvas, f"{top * line / GRID_LINES:.4f}", 10, y - 5)
    canvas[TOP : HEIGHT - BOTTOM, LEFT] = BLACK
    _write(canvas, "relative error of each weight by block", LEFT, 12)


def _label_block(canvas: Canvas, block: tuple[int, int, str], x: int, *, first: bool) -> None:
    _, index, kind = block
    if index % 5 == 0:
        _write(canvas, str(index), x - 4, HEIGHT - BOTTOM + 8)
    if index == 0:
        _write(canvas, kind.replace("_", " "), x - 4, HEIGHT - 22)
        if not first:
            canvas[TOP : HEIGHT - BOTTOM, x - 8] = GREY


def _draw_legend(canvas: Canvas, schemes: list[str]) -> None:
    for place, scheme in enumerate(schemes):
        x = WIDTH - RIGHT - 110 * (len(schemes) - place)
        canvas[13:21, x : x + 8] = COLOURS[scheme.partition(":")[0]]
        _write(canvas, scheme, x + 14, 12)


def _write(canvas: Canvas, text: str, x: int, y: int, size: int = 2, colour: Colour = BLACK) -> None:
    for place, character in enumerate(text):
        for row, bits in enumerate(_FONT[character]):
            for column in range(3):
                if bits >> (2 - column) & 1:
                    left, top = x + (place * 4 + column) * size, y + row * size
                    canvas[top : top + size, left : left + size] = colour


def encode_png(canvas: Canvas) -> bytes:
    """An 8-bit RGB picture [height, width, 3] as PNG (ISO/IEC 15948), no filter."""
    height, width, _ = canvas.shape
    rows = np.concatenate([np.zeros((height, 1), np.uint8), canvas.reshape(height, -1)], axis=1)
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(rows.tobytes(), 9)), (b"IEND", b""))
    body = b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )
    return b"\x89PNG\r\n\x1a\n" + body
