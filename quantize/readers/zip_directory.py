"""The directory of a zip file, read strictly: stored entries only, each with a span of bytes of its own.

A compressed entry is refused from the directory alone, so that a file never costs more memory than its size.
Layout: PKWARE APPNOTE 6.3, sections 4.3.7 (local header), 4.3.12 (directory), 4.3.14 to 4.3.16 (end records, zip64).
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from .tensor_file import MAX_TENSORS, pread_exactly

MAX_DIRECTORY_BYTES = 16 * 2**20
MAX_ENTRIES = MAX_TENSORS + 64

_END = struct.Struct("<4s4H2LH")
_END64_LOCATOR = struct.Struct("<4sLQL")
_END64 = struct.Struct("<4sQ2H2L4Q")
_ENTRY = struct.Struct("<4s6H3L5H2L")
_LOCAL = struct.Struct("<4s5H3L2H")
_FULL_16, _FULL_32 = 0xFFFF, 0xFFFFFFFF
_ENCRYPTED = 0x1 | 0x40


class ZipError(ValueError):
    """What is wrong with a zip file. The reader adds the file's name."""


@dataclass(frozen=True, slots=True)
class ZipSpan:
    """The bytes of one stored entry: `size` bytes at `offset` of the file."""

    offset: int
    size: int


@dataclass(frozen=True, slots=True)
class _Entry:
    name: str
    size: int
    header: int


def read_directory(fd: int, path: Path) -> dict[str, ZipSpan]:
    """Entries by name. Raises ZipError for what is wrong with the archive, CheckpointError where it cannot be read."""
    size = os.fstat(fd).st_size
    count, length, start = _find_directory(fd, size, path)
    if count > MAX_ENTRIES or length > MAX_DIRECTORY_BYTES or start + length > size:
        raise ZipError(f"its directory claims {count} entries in {length} bytes at {start}")
    entries = list(_parse_entries(pread_exactly(fd, length, start, path), count))
    spans = {entry.name: _locate(fd, path, entry, start) for entry in entries}
    if len(spans) != len(entries):
        raise ZipError("two entries have the same name")
    _check_disjoint(entries, spans)
    return spans


def _find_directory(fd: int, size: int, path: Path) -> tuple[int, int, int]:
    """Number of entries, length and start of the directory.

    A comment after the end record is not taken: torch writes none.
    """
    if size < _END.size:
        raise ZipError("it is too short for a zip file")
    end = _END.unpack(pread_exactly(fd, _END.size, size - _END.size, path))
    if end[0] != b"PK\x05\x06" or end[7]:
        raise ZipError("its end is missing: the file was cut")
    if end[1] not in (0, _FULL_16) or end[3] != end[4]:
        raise ZipError("it is one part of a split archive")
    if _FULL_16 in end[3:5] or _FULL_32 in end[5:7] or end[1] == _FULL_16:
        return _find_directory64(fd, size, path)
    return end[4], end[5], end[6]


def _find_directory64(fd: int, size: int, path: Path) -> tuple[int, int, int]:
    at = size - _END.size - _END64_LOCATOR.size
    if at < _END64.size:
        raise ZipError("its zip64 end record is missing")
    locator = _END64_LOCATOR.unpack(pread_exactly(fd, _END64_LOCATOR.size, at, path))
    if locator[0] != b"PK\x06\x07" or locator[2] + _END64.size > at:
        raise ZipError("its zip64 end record is missing")
    end = _END64.unpack(pread_exactly(fd, _END64.size, locator[2], path))
    if end[0] != b"PK\x06\x06" or end[6] != end[7] or end[4] or end[5]:
        raise ZipError("its zip64 end record is damaged")
    return end[7], end[8], end[9]


def _parse_entries(data: bytes, count: int) -> Iterator[_Entry]:
    at = 0
    for _ in range(count):
        if at + _ENTRY.size > len(data):
            raise ZipError("its directory is shorter than it says")
        fields = _ENTRY.unpack_from(data, at)
        names = at + _ENTRY.size
        at = names + fields[10] + fields[11] + fields[12]
        if fields[0] != b"PK\x01\x02" or at > len(data):
            raise ZipError("its directory is damaged")
        extra = data[names + fields[10] : names + fields[10] + fields[11]]
        yield _parse_entry(fields, data[names : names + fields[10]], extra)
    if at != len(data):
        raise ZipError("its directory is longer than its entries")


def _parse_entry(fields: tuple[int, ...], raw_name: bytes, extra: bytes) -> _Entry:
    name = raw_name.decode("utf-8", "replace")
    if not name or not name.isprintable():
        raise ZipError(f"the entry name {name!r:.80} is empty or not printable")
    flags, method, packed, size, header = fields[3], fields[4], fields[8], fields[9], fields[16]
    if flags & _ENCRYPTED:
        raise ZipError(f"{name!r:.80} is encrypted")
    if method:
        raise ZipError(f"{name!r:.80} is compressed; torch.save stores its entries uncompressed")
    size, packed, header = _apply_zip64(name, extra, size, packed, header)
    if size != packed:
        raise ZipError(f"{name!r:.80} is stored, yet has two sizes, {size} and {packed}")
    return _Entry(name, size, header)


def _apply_zip64(name: str, extra: bytes, *values: int) -> list[int]:
    """Replace the values that are all ones by those of the zip64 extra field, which holds only them, in this order."""
    full = [index for index, value in enumerate(values) if value == _FULL_32]
    result = list(values)
    if not full:
        return result
    field = _extra_field(extra, 1)
    if field is None or len(field) < 8 * len(full):
        raise ZipError(f"the zip64 sizes of {name!r:.80} are missing")
    for place, index in enumerate(full):
        result[index] = int.from_bytes(field[8 * place : 8 * place + 8], "little")
    return result


def _extra_field(extra: bytes, kind: int) -> bytes | None:
    while len(extra) >= 4:
        found, length = struct.unpack_from("<2H", extra)
        if found == kind:
            return extra[4 : 4 + length]
        extra = extra[4 + length :]
    return None


def _locate(fd: int, path: Path, entry: _Entry, limit: int) -> ZipSpan:
    """The entry's data, behind its local header; sizes there are not used (torch leaves them zero)."""
    if entry.header + _LOCAL.size > limit:
        raise ZipError(f"{entry.name!r:.80} starts behind the directory")
    local = _LOCAL.unpack(pread_exactly(fd, _LOCAL.size, entry.header, path))
    if local[0] != b"PK\x03\x04" or local[3]:
        raise ZipError(f"the header of {entry.name!r:.80} is damaged")
    at = entry.header + _LOCAL.size
    if pread_exactly(fd, local[9], at, path).decode("utf-8", "replace") != entry.name:
        raise ZipError(f"{entry.name!r:.80} has another name in its own header")
    offset = at + local[9] + local[10]
    if offset + entry.size > limit:
        raise ZipError(f"{entry.name!r:.80} does not end before the directory")
    return ZipSpan(offset, entry.size)


def _check_disjoint(entries: list[_Entry], spans: dict[str, ZipSpan]) -> None:
    end, before = 0, ""
    for entry in sorted(entries, key=lambda item: item.header):
        if entry.header < end:
            raise ZipError(f"{entry.name!r:.80} overlaps {before!r:.80}")
        end, before = spans[entry.name].offset + entry.size, entry.name
