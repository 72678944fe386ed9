"""What every weight file looks like to the readers above it: named tensors, each read on its own with `pread`.

Nothing is memory-mapped: resident memory counts what was read and not yet let go, and a file that shrinks gives an
error, not a signal.
"""

from __future__ import annotations

import ctypes
import os
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from ...errors import CheckpointError
from ...files import read_error

if TYPE_CHECKING:
    import torch

# safetensors' names of the element types that are read, with their bytes per element and torch's names
DTYPE_BYTES = {
    "BOOL": 1,
    "U8": 1,
    "I8": 1,
    "F8_E4M3": 1,
    "F8_E5M2": 1,
    "I16": 2,
    "U16": 2,
    "F16": 2,
    "BF16": 2,
    "I32": 4,
    "U32": 4,
    "F32": 4,
    "I64": 8,
    "U64": 8,
    "F64": 8,
}
TORCH_NAMES = {
    "BOOL": "bool",
    "U8": "uint8",
    "I8": "int8",
    "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2",
    "I16": "int16",
    "U16": "uint16",
    "F16": "float16",
    "BF16": "bfloat16",
    "I32": "int32",
    "U32": "uint32",
    "F32": "float32",
    "I64": "int64",
    "U64": "uint64",
    "F64": "float64",
}
FLOAT_DTYPES = frozenset({"F8_E4M3", "F8_E5M2", "F16", "BF16", "F32", "F64"})
FP8_DTYPES = frozenset({"F8_E4M3", "F8_E5M2"})
MAX_DIMS = 8
MAX_ELEMENTS = 2**48
MAX_TENSORS = 8192  # the largest model read has 1,264; a hostile header must stay cheap
READ_CHUNK_BYTES = 2**30  # the kernel moves at most 2 GiB a call


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """Element type (safetensors' name, a key of `DTYPE_BYTES`) and shape of a stored tensor."""

    dtype: str
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        return prod(self.shape) * DTYPE_BYTES[self.dtype]

    @property
    def torch_dtype(self) -> torch.dtype:
        import torch

        dtype: torch.dtype = getattr(torch, TORCH_NAMES[self.dtype])
        return dtype


class TensorFile(Protocol):
    """Named tensors of one file, or of a set of shards."""

    @property
    def paths(self) -> tuple[Path, ...]: ...

    @property
    def metadata(self) -> dict[str, str]: ...

    def names(self) -> list[str]: ...

    def info(self, name: str) -> TensorInfo: ...

    def read(self, name: str) -> torch.Tensor: ...

    def path_of(self, name: str) -> Path: ...

    def close(self) -> None: ...


def pread_exactly(fd: int, nbytes: int, offset: int, path: Path) -> bytes:
    """`nbytes` bytes at `offset`; fewer is a CheckpointError."""
    try:
        data = os.pread(fd, nbytes, offset)
    except OSError as error:
        raise read_error(path, error) from error
    if len(data) != nbytes:
        raise truncated(path, offset + nbytes, offset + len(data))
    return data


def pread_tensor(fd: int, info: TensorInfo, offset: int, path: Path, name: str) -> torch.Tensor:
    """The tensor stored at `offset`, in memory of its own."""
    import torch

    tensor = torch.empty(info.shape, dtype=info.torch_dtype)
    if not info.nbytes:
        return tensor
    buffer = memoryview((ctypes.c_char * info.nbytes).from_address(tensor.data_ptr())).cast("B")
    done = 0
    while done < info.nbytes:
        try:
            count = os.preadv(fd, [buffer[done : done + READ_CHUNK_BYTES]], offset + done)
        except OSError as error:
            raise read_error(path, error) from error
        if not count:
            raise CheckpointError(
                f"{path} ends at byte {offset + done} inside {name!r}; it became shorter while it was read",
                hint="another program is writing the file; wait for it, or download the file again",
            )
        done += count
    return tensor


def truncated(path: Path, expected_bytes: int, actual_bytes: int) -> CheckpointError:
    """The error for a file that is shorter than it says."""
    return CheckpointError(
        f"{path} is {expected_bytes - actual_bytes:,} bytes short of the {expected_bytes:,} it declares",
        hint="the download was cut; download the file again",
    )
