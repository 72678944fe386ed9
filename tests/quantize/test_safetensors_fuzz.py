"""100,000 damaged headers: each is read, or refused with the one typed error, quickly.

What the reference reader refuses is never read, and what both read they read alike.
"""

from __future__ import annotations

import json
import random
import time
import tracemalloc
from collections.abc import Iterator

import pytest
import safetensors

from hvlite.quantize.readers.safetensors_header import MAX_HEADER_BYTES, HeaderError, TensorSpan, parse_header
from hvlite.quantize.readers.tensor_file import MAX_TENSORS

HEADERS = 100_000
WORST_S = 0.25  # of processor time
LARGEST_BYTES = 64 * 2**20
EVIL = (
    -1,
    0,
    1,
    3,
    7,
    8,
    2**31,
    2**32 - 1,
    2**53 + 1,
    2**62,
    2**63,
    2**64,
    10**40,
    1.5,
    1e400,
    True,
    None,
    "1",
    "",
    [],
    {},
)
EVIL_TEXT = (
    "__metadata__",
    "",
    "\0",
    "\ud800",
    "a" * 600,
    "../../etc/passwd",
    "F32",
    "F8_E4M3",
    "F6_E2M3",
    "dtype",
    "shape",
    "ü",
)
EVIL_BYTES = (
    b"{",
    b"}",
    b"[",
    b"]",
    b",",
    b":",
    b'"',
    b"\\",
    b"-",
    b"0",
    b"9" * 30,
    b"e9",
    b"NaN",
    b"\xff",
    b"\xed\xa0\x80",
    b"\0",
    b" ",
    b'"a":',
)


def good(rng: random.Random) -> tuple[dict[str, object], int]:
    """A header that is right, with a few small tensors, and the size of its data."""
    header: dict[str, object] = {"__metadata__": {"format": "pt"}} if rng.random() < 0.3 else {}
    position = 0
    for index in range(rng.randrange(1, 5)):
        shape = [rng.randrange(0, 4) for _ in range(rng.randrange(0, 3))]
        dtype, width = rng.choice((("F32", 4), ("BF16", 2), ("F8_E4M3", 1), ("I64", 8)))
        size = width
        for extent in shape:
            size *= extent
        header[f"t{index}"] = {"dtype": dtype, "shape": shape, "data_offsets": [position, position + size]}
        position += size
    return header, position


def damage_structure(rng: random.Random, header: dict[str, object]) -> None:
    """Replace, remove or copy one value somewhere in the header."""
    holder: object = header
    while True:
        keys = list(holder) if isinstance(holder, dict) else list(range(len(holder)))  # type: ignore[arg-type]
        if not keys:
            return
        key = rng.choice(keys)
        inner = holder[key]  # type: ignore[index]
        if isinstance(inner, dict | list) and inner and rng.random() < 0.8:
            holder = inner
            continue
        match rng.randrange(4):
            case 0:
                del holder[key]  # type: ignore[attr-defined]
            case 1 if isinstance(holder, dict):
                holder[rng.choice(EVIL_TEXT)] = inner
            case 2 if isinstance(inner, int):
                holder[key] = inner + rng.choice((-8, -4, -1, 1, 4, 8))  # type: ignore[index]
            case _:
                holder[key] = rng.choice((*EVIL, *EVIL_TEXT))  # type: ignore[index]
        return


def damage_bytes(rng: random.Random, text: bytes) -> bytes:
    """Insert, overwrite, remove or repeat a few bytes."""
    start = rng.randrange(len(text) + 1)
    end = min(len(text), start + rng.randrange(0, 8))
    middle = rng.choice((rng.choice(EVIL_BYTES), b"", text[start:end] * 2, rng.randbytes(3)))
    return text[:start] + middle + text[end:]


def hostile_headers(rng: random.Random) -> Iterator[tuple[bytes, int]]:
    for _ in range(HEADERS):
        header, size = good(rng)
        for _ in range(rng.randrange(0, 3)):
            damage_structure(rng, header)
        text = json.dumps(header, ensure_ascii=rng.random() < 0.5).encode("utf-8", "surrogatepass")
        for _ in range(rng.randrange(0, 3)):
            text = damage_bytes(rng, text)
        if rng.random() < 0.1:
            size = max(0, size + rng.choice((-4, -1, 1, 4, 2**40)))
        yield text, size


def parse(text: bytes, size: int) -> dict[str, TensorSpan] | None:
    try:
        return parse_header(text, size)[0]
    except HeaderError:
        return None


@pytest.mark.slow
def test_100_000_hostile_headers() -> None:
    accepted, worst = 0, 0.0
    for text, size in hostile_headers(random.Random(20_240_517)):
        started = time.thread_time()
        spans = parse(text, size)
        worst = max(worst, time.thread_time() - started)
        if spans is not None:
            accepted += 1
            file = len(text).to_bytes(8, "little") + text + bytes(size)
            reference = {name: (info["dtype"], tuple(info["shape"])) for name, info in safetensors.deserialize(file)}
            assert {name: (span.dtype, span.shape) for name, span in spans.items()} == reference, text
    assert worst <= WORST_S
    assert HEADERS // 50 < accepted < HEADERS // 2, "the fuzzer must reach both sides"


LARGE = {
    "tensors": lambda n: (
        b"{" + b",".join(b'"%d":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}' % i for i in range(n)) + b"}"
    ),
    "duplicates": lambda n: b"{" + b",".join(b'"a%d":1' % (i // 2) for i in range(n)) + b"}",
    "sizes": lambda n: b'{"a":{"dtype":"U8","shape":[' + b"1," * n + b'1],"data_offsets":[0,1]}}',
    "brackets": lambda n: b'{"a":' + b"[" * n,
    "numbers": lambda n: b'{"a":[' + b"9" * 4000 * (n // 4000) + b"]}",
    "escapes": lambda n: b'{"__metadata__":{"a":"' + b"\\u00e9" * n + b'"}}',
    "text": lambda n: b'{"__metadata__":{"a":"' + "🎬".encode() * n + b'"}}',
    "wide_text": lambda n: b'{"__metadata__":{"a":"' + "🎬".encode() + b"a" * (6 * n) + b'"}}',
    "zeros": lambda n: b"{" + bytes(n),
}


@pytest.mark.parametrize("count", [1000, 30_000, 1_000_000])
@pytest.mark.parametrize("kind", LARGE)
def test_large_headers_cost_little_time_and_memory(kind: str, count: int) -> None:
    if kind == "tensors":
        count = min(count, MAX_TENSORS)
    text = LARGE[kind](count)[:MAX_HEADER_BYTES]
    times = []
    for _ in range(3):  # the best of three: a busy machine doubles processor time now and then
        started = time.thread_time()
        parse(text, 0)
        times.append(time.thread_time() - started)
    assert min(times) <= WORST_S
    tracemalloc.start()
    parse(text, 0)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak <= LARGEST_BYTES
