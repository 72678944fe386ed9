"""Which weights a conversion reads: enough of every file's bytes to tell two checkpoints apart without reading all."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from pathlib import Path

from ..files import open_regular, read_error

_EDGE_BYTES = 1 << 20
_SAMPLES = 256
_SAMPLE_BYTES = 4096


def fingerprint_files(paths: Iterable[Path]) -> str:
    """A hash over the files' sizes, their first and last MiB, and 256 samples between. Names do not count."""
    return hashlib.sha256("".join(sorted(_fingerprint_file(path) for path in paths)).encode()).hexdigest()


def _fingerprint_file(path: Path) -> str:
    fd = open_regular(path)
    try:
        size = os.fstat(fd).st_size
        digest = hashlib.sha256(size.to_bytes(8, "little"))
        for offset, length in _spans(size):
            digest.update(os.pread(fd, length, offset))
    except OSError as error:
        raise read_error(path, error) from error
    finally:
        os.close(fd)
    return digest.hexdigest()


def _spans(size: int) -> list[tuple[int, int]]:
    """Offsets and lengths of what is hashed; all of a small file."""
    if size <= 4 * _EDGE_BYTES:
        return [(0, size)]
    step = size // (_SAMPLES + 1)
    inner = [(step * (index + 1), _SAMPLE_BYTES) for index in range(_SAMPLES)]
    return [(0, _EDGE_BYTES), *inner, (size - _EDGE_BYTES, _EDGE_BYTES)]
