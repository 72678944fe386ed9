from __future__ import annotations

import struct
import zlib
from pathlib import Path

import av
import pytest
import torch

from hvlite.errors import ConfigError
from hvlite.lite.output.pictures import contact_sheet, encode_png, write_png


def decode(data: bytes) -> torch.Tensor:
    """Through FFmpeg's PNG decoder, which did not write it."""
    frame = av.CodecContext.create("png", "r").decode(av.Packet(data))[0]
    return torch.from_numpy(frame.to_ndarray(format="rgb24"))


@pytest.mark.parametrize("size", [(1, 1), (1, 7), (7, 1), (33, 65)])
def test_png_keeps_every_bit(size: tuple[int, int]) -> None:
    picture = torch.randint(0, 256, (*size, 3), dtype=torch.uint8)
    assert torch.equal(decode(encode_png(picture)), picture)


def test_png_takes_views() -> None:
    picture = torch.randint(0, 256, (3, 8, 12), dtype=torch.uint8).movedim(0, 2)[::2, ::3]
    assert torch.equal(decode(encode_png(picture)), picture)


def test_png_chunks_carry_their_checksums() -> None:
    data, position, names = encode_png(torch.zeros(4, 4, 3, dtype=torch.uint8)), 8, []
    while position < len(data):
        (length,) = struct.unpack_from(">I", data, position)
        body = data[position + 4 : position + 8 + length]
        assert struct.unpack_from(">I", data, position + 8 + length)[0] == zlib.crc32(body)
        names.append(body[:4])
        position += 12 + length
    assert names == [b"IHDR", b"IDAT", b"IEND"]


@pytest.mark.parametrize("shape", [(4, 4), (4, 4, 4), (0, 4, 3), (1, 4, 4, 3)])
def test_png_refuses_other_shapes(shape: tuple[int, ...]) -> None:
    with pytest.raises(ConfigError):
        encode_png(torch.zeros(shape, dtype=torch.uint8))
    with pytest.raises(ConfigError):
        encode_png(torch.zeros(4, 4, 3))


def test_contact_sheet_places_frames_row_by_row(tmp_path: Path) -> None:
    frames = [torch.full((5, 8, 3), 10 * index, dtype=torch.uint8) for index in range(5)]
    sheet = contact_sheet(frames, columns=2, gap=3)
    assert sheet.shape == (3 * (5 + 3) + 3, 2 * (8 + 3) + 3, 3)
    for index, frame in enumerate(frames):
        top, left = 3 + index // 2 * 8, 3 + index % 2 * 11
        assert torch.equal(sheet[top : top + 5, left : left + 8], frame)
    inside = sum(frame.numel() for frame in frames)
    assert int((sheet == 255).sum()) == sheet.numel() - inside
    write_png(tmp_path / "sheet.png", sheet)
    assert torch.equal(decode((tmp_path / "sheet.png").read_bytes()), sheet)


def test_contact_sheet_refuses_nothing_and_mixed_sizes() -> None:
    frame = torch.zeros(4, 4, 3, dtype=torch.uint8)
    for frames, columns in (([], 2), ([frame], 0), ([frame, frame[:2]], 2)):
        with pytest.raises(ConfigError):
            contact_sheet(frames, columns)
