"""Still pictures: PNG bytes, and several frames side by side on one sheet."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ...errors import ConfigError
from ...files import write_atomic

if TYPE_CHECKING:
    import torch

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_RGB_8_BIT = (8, 2, 0, 0, 0)  # bit depth, colour type, compression, filter method, no interlacing
_FILTER_UP = 2  # each row as the difference to the row above: about a third smaller than plain rows for drawn shapes


def encode_png(picture: torch.Tensor) -> bytes:
    """A PNG file of uint8 [H, W, 3]; equal pictures give equal bytes."""
    import torch

    if picture.dtype != torch.uint8 or picture.ndim != 3 or picture.shape[2] != 3 or not picture.numel():
        raise ConfigError(f"a picture is uint8 [H, W, 3]; this is {picture.dtype} {list(picture.shape)}")
    height, width, _ = picture.shape
    rows = picture.cpu().reshape(height, width * 3)
    above = torch.cat([torch.zeros_like(rows[:1]), rows[:-1]])
    filtered = torch.cat([torch.full((height, 1), _FILTER_UP, dtype=torch.uint8), rows - above], dim=1)
    header = struct.pack(">2I5B", width, height, *_RGB_8_BIT)
    data = zlib.compress(filtered.numpy().tobytes(), 6)
    return _SIGNATURE + _chunk(b"IHDR", header) + _chunk(b"IDAT", data) + _chunk(b"IEND", b"")


def write_png(path: Path, picture: torch.Tensor) -> None:
    """Write uint8 [H, W, 3] as a PNG file, whole or not at all."""
    write_atomic(path, encode_png(picture))


def contact_sheet(frames: Sequence[torch.Tensor], columns: int, gap: int = 4) -> torch.Tensor:
    """Equally large frames uint8 [H, W, 3], row by row, on a white sheet uint8 [H', W', 3], `gap` pixels apart."""
    import torch

    if not frames or columns < 1:
        raise ConfigError("a contact sheet needs at least one frame and one column")
    if len({tuple(frame.shape) for frame in frames}) != 1:
        raise ConfigError("the frames of a contact sheet are all of one size")
    height, width, _ = frames[0].shape
    rows = -(-len(frames) // columns)
    sheet = torch.full((rows * (height + gap) + gap, columns * (width + gap) + gap, 3), 255, dtype=torch.uint8)
    for index, frame in enumerate(frames):
        top, left = gap + index // columns * (height + gap), gap + index % columns * (width + gap)
        sheet[top : top + height, left : left + width] = frame
    return sheet


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
