"""A picture drawn dot by dot: text in a small font, lines, rectangles, PNG. No plotting library."""

from __future__ import annotations

import struct
import zlib

import numpy as np
from numpy.typing import NDArray

WHITE, BLACK, GREY = (255, 255, 255), (30, 30, 30), (215, 215, 215)

# Five rows of three dots a character.
_FONT = {
    "0": (7, 5, 5, 5, 7), "1": (2, 6, 2, 2, 7), "2": (7, 1, 7, 4, 7), "3": (7, 1, 7, 1, 7), "4": (5, 5, 7, 1, 1),
    "5": (7, 4, 7, 1, 7), "6": (7, 4, 7, 5, 7), "7": (7, 1, 1, 2, 2), "8": (7, 5, 7, 5, 7), "9": (7, 5, 7, 1, 7),
    ".": (0, 0, 0, 0, 2), " ": (0, 0, 0, 0, 0), ":": (0, 2, 0, 2, 0), "_": (0, 0, 0, 0, 7), "-": (0, 0, 7, 0, 0),
    "a": (0, 3, 5, 5, 3), "b": (4, 6, 5, 5, 6), "c": (0, 3, 4, 4, 3), "d": (1, 3, 5, 5, 3), "e": (2, 5, 7, 4, 3),
    "f": (3, 4, 6, 4, 4), "g": (3, 5, 3, 1, 6), "i": (2, 0, 2, 2, 2), "k": (4, 5, 6, 5, 5), "l": (6, 2, 2, 2, 7),
    "m": (0, 7, 7, 5, 5), "n": (0, 6, 5, 5, 5), "o": (0, 2, 5, 5, 2), "p": (0, 6, 5, 6, 4), "r": (0, 3, 4, 4, 4),
    "s": (3, 4, 2, 1, 6), "t": (2, 7, 2, 2, 3), "u": (0, 5, 5, 5, 3), "v": (0, 5, 5, 5, 2), "w": (0, 5, 5, 7, 7),
    "h": (4, 6, 5, 5, 5), "x": (0, 5, 2, 2, 5), "y": (5, 5, 3, 1, 6), "j": (1, 0, 1, 5, 2), "q": (0, 3, 5, 3, 1),
    "z": (0, 7, 1, 4, 7), "/": (1, 1, 2, 4, 4), "%": (5, 1, 2, 4, 5), "(": (1, 2, 2, 2, 1), ")": (4, 2, 2, 2, 4),
    ",": (0, 0, 0, 2, 4), "+": (0, 2, 7, 2, 0), "=": (0, 7, 0, 7, 0), "*": (5, 2, 5, 0, 0), "?": (7, 1, 2, 0, 2),
}  # fmt: skip

Canvas = NDArray[np.uint8]
Colour = tuple[int, int, int]


def blank(height: int, width: int) -> Canvas:
    """A white picture, uint8 [height, width, 3]."""
    canvas: Canvas = np.full((height, width, 3), WHITE, dtype=np.uint8)
    return canvas


def write(canvas: Canvas, text: str, x: int, y: int, size: int = 2, colour: Colour = BLACK) -> None:
    """Text with its upper left corner at x, y, in small letters; `size` dots for each dot of the font."""
    for place, character in enumerate(text.lower()):
        for row, bits in enumerate(_FONT.get(character, _FONT["?"])):
            for column in range(3):
                if bits >> (2 - column) & 1:
                    left, top = x + (place * 4 + column) * size, y + row * size
                    canvas[top : top + size, left : left + size] = colour


def text_width(text: str, size: int = 2) -> int:
    """How many dots wide `write` makes a text."""
    return 4 * len(text) * size


def line(canvas: Canvas, start: tuple[int, int], end: tuple[int, int], colour: Colour, thickness: int = 2) -> None:
    """A straight line between two points (x, y)."""
    steps = max(abs(end[0] - start[0]), abs(end[1] - start[1]), 1)
    for step in range(steps + 1):
        x, y = (round(first + (last - first) * step / steps) for first, last in zip(start, end, strict=True))
        canvas[max(0, y) : max(0, y) + thickness, max(0, x) : max(0, x) + thickness] = colour


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
