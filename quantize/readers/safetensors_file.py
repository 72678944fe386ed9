"""A strict, lazy reader of safetensors files: `open_safetensors(path)`. Reads with `pread`, one tensor at a time."""

from __future__ import annotations

import os
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from ...errors import CheckpointError
from ...files import open_regular
from .magic import MAGIC_BYTES, REDOWNLOAD, wrong_file
from .safetensors_header import MAX_HEADER_BYTES, HeaderError, TensorSpan, parse_header
from .tensor_file import TensorInfo, pread_exactly, pread_tensor, truncated

if TYPE_CHECKING:
    import torch

LENGTH_BYTES = 8


class SafetensorsFile:
    """An open safetensors file. Holds a descriptor and the header; tensors are read on demand."""

    def __init__(self, path: Path, fd: int, spans: dict[str, TensorSpan], metadata: dict[str, str], start: int) -> None:
        self.path = path
        self.metadata = metadata
        self._fd = fd
        self._spans = spans
        self._start = start

    @property
    def paths(self) -> tuple[Path, ...]:
        return (self.path,)

    def names(self) -> list[str]:
        """Tensor names in the header's order."""
        return list(self._spans)

    def info(self, name: str) -> TensorInfo:
        span = self._span(name)
        return TensorInfo(span.dtype, span.shape)

    def offset(self, name: str) -> int:
        """Where the tensor's first byte lies in the file."""
        return self._start + self._span(name).begin

    def read(self, name: str) -> torch.Tensor:
        """The tensor in its stored dtype, contiguous, in memory of its own."""
        return pread_tensor(self._fd, self.info(name), self.offset(name), self.path, name)

    def path_of(self, name: str) -> Path:
        return self.path

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def __enter__(self) -> SafetensorsFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _span(self, name: str) -> TensorSpan:
        try:
            return self._spans[name]
        except KeyError:
            raise CheckpointError(f"{self.path} has no tensor {name!r}") from None


def open_safetensors(path: Path | str) -> SafetensorsFile:
    """Open a safetensors file and check its whole header. Raises CheckpointError naming the file and what is wrong."""
    path = Path(path)
    fd = open_regular(path)
    try:
        header, data_bytes = _read_header(fd, path)
        spans, metadata = parse_header(header, data_bytes)
    except HeaderError as error:
        os.close(fd)
        raise CheckpointError(f"{path}: {error}", hint=f"the file is damaged; {REDOWNLOAD}") from error
    except BaseException:
        os.close(fd)
        raise
    return SafetensorsFile(path, fd, spans, metadata, LENGTH_BYTES + len(header))


def _read_header(fd: int, path: Path) -> tuple[bytes, int]:
    """The header's bytes and the number of bytes that follow it."""
    size = os.fstat(fd).st_size
    head = pread_exactly(fd, min(size, MAGIC_BYTES), 0, path)
    if head[LENGTH_BYTES : LENGTH_BYTES + 1] != b"{":
        raise wrong_file(path, head, "a safetensors file")
    length = int.from_bytes(head[:LENGTH_BYTES], "little")
    if length > MAX_HEADER_BYTES:
        raise HeaderError(f"the header would be {length:,} bytes long; at most {MAX_HEADER_BYTES:,} are read")
    if not length:
        raise HeaderError("the file was never written to its end: its length field is still zero")
    if LENGTH_BYTES + length > size:
        raise truncated(path, LENGTH_BYTES + length, size)
    return pread_exactly(fd, length, LENGTH_BYTES, path), size - LENGTH_BYTES - length
