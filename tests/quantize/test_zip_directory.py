"""Zip archives whose directory lies: about sizes, places, names, methods, the number of entries or its own end."""

from __future__ import annotations

import os
import struct
import warnings
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from hvlite.errors import CheckpointError
from hvlite.quantize.readers.zip_directory import MAX_ENTRIES, ZipError, ZipSpan, read_directory

ENTRIES = {"x/data.pkl": b"first", "x/data/0": bytes(16), "x/data/1": b"last"}
SIZE_FULL = 0xFFFFFFFF


def write(path: Path, entries: dict[str, bytes]) -> bytearray:
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in entries.items():
            archive.writestr(name, data)
    return bytearray(path.read_bytes())


@contextmanager
def opened(path: Path) -> Iterator[int]:
    fd = os.open(path, os.O_RDONLY)
    yield fd
    os.close(fd)


def spans_of(path: Path) -> dict[str, ZipSpan]:
    with opened(path) as fd:
        return read_directory(fd, path)


def records(data: bytearray) -> list[int]:
    """Where each record of the directory starts."""
    places, at = [], data.index(b"PK\x01\x02")
    while at >= 0:
        places.append(at)
        at = data.find(b"PK\x01\x02", at + 1)
    return places


def put(data: bytearray, at: int, layout: str, *values: int | bytes) -> None:
    struct.pack_into(layout, data, at, *values)


def end_of(data: bytearray) -> int:
    return len(data) - 22


def grow_entry(data: bytearray, extra: bytes) -> None:
    """Give the last record an extra field, and correct the directory's length for it."""
    at = records(data)[-1]
    put(data, at + 30, "<H", len(extra))
    name = struct.unpack_from("<H", data, at + 28)[0]
    data[at + 46 + name : at + 46 + name] = extra
    put(data, end_of(data) + 12, "<L", struct.unpack_from("<L", data, end_of(data) + 12)[0] + len(extra))


def zip64(data: bytearray, size: int, packed: int) -> None:
    put(data, records(data)[-1] + 20, "<LL", SIZE_FULL, SIZE_FULL)
    grow_entry(data, struct.pack("<HHQQ", 1, 16, size, packed))


LIES: dict[str, tuple[Callable[[bytearray], None], str]] = {
    "encrypted": (lambda data: put(data, records(data)[1] + 8, "<H", 1), "encrypted"),
    "strongly_encrypted": (lambda data: put(data, records(data)[1] + 8, "<H", 0x40), "encrypted"),
    "method_in_directory": (lambda data: put(data, records(data)[1] + 10, "<H", 8), "is compressed"),
    "method_in_local_header": (lambda data: put(data, data.index(b"PK\x03\x04", 4) + 8, "<H", 8), "is damaged"),
    "two_sizes": (lambda data: put(data, records(data)[1] + 24, "<L", 15), "two sizes"),
    "size_past_directory": (lambda data: put(data, records(data)[2] + 20, "<LL", 500, 500), "before the directory"),
    "size_over_next_entry": (lambda data: put(data, records(data)[0] + 20, "<LL", 40, 40), "overlaps"),
    "same_place_twice": (lambda data: put(data, records(data)[1] + 42, "<L", 0), "another name"),
    "place_past_directory": (lambda data: put(data, records(data)[1] + 42, "<L", len(data)), "behind the directory"),
    "place_in_directory": (
        lambda data: put(data, records(data)[1] + 42, "<L", records(data)[0] - 10),
        "behind the directory",
    ),
    "place_in_data": (lambda data: put(data, records(data)[1] + 42, "<L", 5), "is damaged"),
    "local_name": (lambda data: data.__setitem__(slice(30, 31), b"y"), "another name"),
    "name_of_a_control_character": (
        lambda data: data.__setitem__(slice(records(data)[0] + 46, records(data)[0] + 47), b"\x1b"),
        "printable",
    ),
    "record_mark": (lambda data: put(data, records(data)[1], "<4s", b"PK\x01\x03"), "directory is damaged"),
    "record_name_length": (lambda data: put(data, records(data)[2] + 28, "<H", 60_000), "directory is damaged"),
    "one_entry_less": (lambda data: put(data, end_of(data) + 8, "<HH", 2, 2), "longer than its entries"),
    "one_entry_more": (lambda data: put(data, end_of(data) + 8, "<HH", 4, 4), "shorter than it says"),
    "two_counts": (lambda data: put(data, end_of(data) + 8, "<HH", 3, 2), "split archive"),
    "second_disk": (lambda data: put(data, end_of(data) + 4, "<H", 1), "split archive"),
    "directory_past_the_end": (lambda data: put(data, end_of(data) + 16, "<L", len(data)), "directory claims"),
    "directory_of_4_gigabytes": (lambda data: put(data, end_of(data) + 12, "<L", SIZE_FULL - 1), "directory claims"),
    "comment": (lambda data: put(data, end_of(data) + 20, "<H", 4), "end is missing"),
    "bytes_after_the_end": (lambda data: data.extend(b"x"), "end is missing"),
    "zip64_without_record": (lambda data: put(data, end_of(data) + 16, "<L", SIZE_FULL), "zip64 end record"),
    "zip64_size_missing": (lambda data: put(data, records(data)[1] + 20, "<L", SIZE_FULL), "zip64 sizes"),
    "zip64_size_too_short": (
        lambda data: (
            put(data, records(data)[2] + 20, "<LL", SIZE_FULL, SIZE_FULL),
            grow_entry(data, struct.pack("<HHQ", 1, 8, 4)),
        )[0],
        "zip64 sizes",
    ),
    "zip64_two_sizes": (lambda data: zip64(data, 4, 5), "two sizes"),
    "zip64_of_2_63": (lambda data: zip64(data, 2**63, 2**63), "before the directory"),
}


@pytest.mark.parametrize("lie", LIES)
def test_lies_are_refused(tmp_path: Path, lie: str) -> None:
    change, said = LIES[lie]
    path = tmp_path / "x.zip"
    data = write(path, ENTRIES)
    change(data)
    path.write_bytes(data)
    with pytest.raises((ZipError, CheckpointError), match=said):
        spans_of(path)


def test_spans_are_where_the_bytes_are(tmp_path: Path) -> None:
    data = write(tmp_path / "x.zip", ENTRIES)
    for name, span in spans_of(tmp_path / "x.zip").items():
        assert data[span.offset : span.offset + span.size] == ENTRIES[name]


def test_sizes_in_a_zip64_field_are_read(tmp_path: Path) -> None:
    path = tmp_path / "x.zip"
    data = write(path, ENTRIES)
    zip64(data, 4, 4)
    path.write_bytes(data)
    assert spans_of(path)["x/data/1"].size == 4


def test_a_zip64_end_record_is_read(tmp_path: Path) -> None:
    """The directory's place moves into the 64-bit record, as in files of more than 4 GiB."""
    path = tmp_path / "x.zip"
    data = write(path, ENTRIES)
    plain = spans_of(path)
    end = end_of(data)
    length, start = struct.unpack_from("<LL", data, end + 12)
    record = struct.pack("<4sQ2H2L4Q", b"PK\x06\x06", 44, 45, 45, 0, 0, 3, 3, length, start)
    locator = struct.pack("<4sLQL", b"PK\x06\x07", 0, end, 1)
    put(data, end + 8, "<HHLL", 0xFFFF, 0xFFFF, SIZE_FULL, SIZE_FULL)
    data[end:end] = record + locator
    path.write_bytes(data)
    assert spans_of(path) == plain
    for at, layout, value in (
        (end, "<4s", b"PK\x06\x05"),
        (end + 16, "<L", 1),
        (end + 20, "<L", 1),
        (end + 24, "<Q", 4),
        (end + 56, "<4s", b"PK\x06\x08"),
        (end + 64, "<Q", 2**60),
        (end + 48, "<Q", 2**62),
    ):
        damaged = bytearray(data)
        put(damaged, at, layout, value)
        path.write_bytes(damaged)
        with pytest.raises(ZipError):
            spans_of(path)


def test_the_same_name_twice(tmp_path: Path) -> None:
    with warnings.catch_warnings(action="ignore"), zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.writestr("x/data.pkl", b"1")
        archive.writestr("x/data.pkl", b"2")
    with pytest.raises(ZipError, match="the same name"):
        spans_of(tmp_path / "x.zip")


def test_too_many_entries(tmp_path: Path) -> None:
    write(tmp_path / "x.zip", {str(number): b"" for number in range(MAX_ENTRIES)})
    assert len(spans_of(tmp_path / "x.zip")) == MAX_ENTRIES
    write(tmp_path / "x.zip", {str(number): b"" for number in range(MAX_ENTRIES + 1)})
    with pytest.raises(ZipError, match="directory claims"):
        spans_of(tmp_path / "x.zip")
