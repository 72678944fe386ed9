"""The header of a safetensors file, parsed strictly and without torch. The reference reader accepts all it accepts.

Stricter than the reference: sizes are capped before anything is parsed (a header never costs much more memory than
its bytes), repeated keys, unknown fields, unprintable names and element types that no model here uses are refused.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, NoReturn

from ...files import unique_keys
from .tensor_file import DTYPE_BYTES, MAX_DIMS, MAX_ELEMENTS, MAX_TENSORS

MAX_HEADER_BYTES = 6 * 2**20
MAX_NAME_LENGTH = 512
METADATA_KEY = "__metadata__"
_FIELDS = {"dtype", "shape", "data_offsets"}


class HeaderError(ValueError):
    """What is wrong with a header. The reader adds the file's name."""


@dataclass(frozen=True, slots=True)
class TensorSpan:
    """A tensor's type, shape and place: bytes `begin` to `end` after the header."""

    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


def parse_header(header: bytes, data_bytes: int) -> tuple[dict[str, TensorSpan], dict[str, str]]:
    """Tensors by name, in the header's order, and the metadata; `data_bytes` is what follows the header in the file.

    Raises HeaderError.
    """
    _check_budget(header)
    entries = _parse_json(header)
    metadata = _check_metadata(entries.pop(METADATA_KEY, {}))
    if len(entries) > MAX_TENSORS:
        raise HeaderError(f"the header names {len(entries)} tensors; at most {MAX_TENSORS} are read")
    spans = {name: _parse_entry(name, entry) for name, entry in entries.items()}
    _check_coverage(spans, data_bytes)
    return spans, metadata


def _check_budget(header: bytes) -> None:
    """Bound what parsing can cost, by counting brackets and commas.

    an entry has one object, two lists and few commas.
    """
    if not header.startswith(b"{"):
        raise HeaderError("the header does not start with '{'")
    counts = {b"{": MAX_TENSORS + 2, b"[": 2 * MAX_TENSORS, b",": (MAX_DIMS + 4) * MAX_TENSORS}
    for character, limit in counts.items():
        if header.count(character) > limit:
            raise HeaderError(f"the header has more than {limit} {character.decode()!r}; no model needs that many")


def _parse_json(header: bytes) -> dict[str, Any]:
    try:
        text = header.decode("utf-8").rstrip(" ")
        value = json.loads(
            text,
            object_pairs_hook=unique_keys,
            parse_int=_natural,
            parse_float=_not_natural,
            parse_constant=_not_natural,
        )
    except UnicodeDecodeError as error:
        raise HeaderError("the header is not UTF-8") from error
    except RecursionError as error:
        raise HeaderError("the header is nested too deeply") from error
    except ValueError as error:
        raise HeaderError(f"the header is not the JSON it should be: {error}") from error
    entries: dict[str, Any] = value  # it starts with '{'
    return entries


def _natural(text: str) -> int:
    if text[0] == "-" or len(text) > 19:
        _not_natural(text)
    return int(text)


def _not_natural(text: str) -> NoReturn:
    raise ValueError(f"the number {text:.40}; only whole numbers from 0 to 2**63 are expected")


def _check_metadata(metadata: object) -> dict[str, str]:
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise HeaderError(f"{METADATA_KEY} is not an object of strings")
    for text in (*metadata, *metadata.values()):
        if not _is_unicode(text):
            raise HeaderError(f"{METADATA_KEY} holds half a surrogate pair")
    return metadata


def _is_unicode(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _parse_entry(name: str, entry: object) -> TensorSpan:
    if not 0 < len(name) <= MAX_NAME_LENGTH or not name.isprintable():
        raise HeaderError(f"the tensor name {name!r:.80} is empty, longer than {MAX_NAME_LENGTH} or not printable")
    if not isinstance(entry, dict) or entry.keys() != _FIELDS:
        raise HeaderError(f"{name!r} is not described by exactly dtype, shape and data_offsets")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in DTYPE_BYTES:
        raise HeaderError(f"{name!r} has the element type {dtype!r:.40}; expected one of {', '.join(DTYPE_BYTES)}")
    if not _is_naturals(shape) or len(shape) > MAX_DIMS:
        raise HeaderError(f"the shape of {name!r} is not a list of at most {MAX_DIMS} sizes")
    if not _is_naturals(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise HeaderError(f"the data_offsets of {name!r} are not a start and an end")
    _check_size(name, dtype, shape, offsets[1] - offsets[0])
    return TensorSpan(dtype, tuple(shape), offsets[0], offsets[1])


def _is_naturals(value: object) -> bool:
    return type(value) is list and all(type(item) is int for item in value)


def _check_size(name: str, dtype: str, shape: list[int], nbytes: int) -> None:
    """Sizes are multiplied with a bound, zeros left out: [0, 2**62] overflows wherever strides are computed."""
    extent = 1
    for size in shape:
        extent *= size or 1
        if extent > MAX_ELEMENTS:
            raise HeaderError(f"the shape of {name!r} overflows")
    need = 0 if 0 in shape else extent * DTYPE_BYTES[dtype]
    if need != nbytes:
        raise HeaderError(f"{name!r} needs {need} bytes for {dtype} {shape}, its data_offsets span {nbytes}")


def _check_coverage(spans: dict[str, TensorSpan], data_bytes: int) -> None:
    """Every byte after the header belongs to exactly one tensor."""
    position, before = 0, "the header"
    for name, span in sorted(spans.items(), key=lambda item: (item[1].begin, item[1].end)):
        if span.begin != position:
            kind = "overlaps" if span.begin < position else "leaves a hole after"
            raise HeaderError(
                f"the data of {name!r} {kind} that of {before!r}: starts at {span.begin}, expected {position}"
            )
        position, before = span.end, name
    if position < data_bytes:
        raise HeaderError(f"{data_bytes - position:,} bytes after the last tensor belong to none")
    if position > data_bytes:
        raise HeaderError(f"the file is {position - data_bytes:,} bytes short of what its header declares")
