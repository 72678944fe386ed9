"""Writes a safetensors file as a stream: its tensors are known beforehand, their bytes come one after the other.

The length field stays zero until every byte is on disk, so a file that was cut short is refused by every reader even
where somebody gives it its final name. safetensors' own `save_file` writes the header first and fills holes later.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ..files import AtomicFile
from .readers.tensor_file import DTYPE_BYTES, TORCH_NAMES, TensorInfo

METADATA = {"format": "pt"}
_LENGTH_BYTES = 8
_ALIGNMENT = 8
_DTYPE_NAMES = {getattr(torch, name): dtype for dtype, name in TORCH_NAMES.items()}


@dataclass(frozen=True)
class Written:
    """A finished file."""

    nbytes: int
    sha256: str


def tensor_info(tensor: Tensor) -> TensorInfo:
    """The element type and shape a tensor is stored with."""
    return TensorInfo(_DTYPE_NAMES[tensor.dtype], tuple(tensor.shape))


def file_order(layout: Mapping[str, TensorInfo]) -> list[str]:
    """The keys as they lie in a file: wide element types first, so that every tensor is aligned to its own."""
    return sorted(layout, key=lambda key: -DTYPE_BYTES[layout[key].dtype])


def make_header(layout: Mapping[str, TensorInfo]) -> bytes:
    """The header of a file whose tensors lie in the order of `layout`, padded to a multiple of eight bytes."""
    entries: dict[str, object] = {"__metadata__": METADATA}
    position = 0
    for key, info in layout.items():
        end = position + info.nbytes
        entries[key] = {"dtype": info.dtype, "shape": list(info.shape), "data_offsets": [position, end]}
        position = end
    text = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode()
    return text + b" " * (-len(text) % _ALIGNMENT)


def file_bytes(layout: Mapping[str, TensorInfo]) -> int:
    """The size of a file with these tensors."""
    return _LENGTH_BYTES + len(make_header(layout)) + sum(info.nbytes for info in layout.values())


def write_safetensors(path: Path, layout: Mapping[str, TensorInfo], tensors: Iterable[tuple[str, Tensor]]) -> Written:
    """Write `tensors`, which come in the order of `layout`, crash-safely. Raises DiskError.

    ValueError for a tensor that is not what `layout` says: a bug, and the file does not appear.
    """
    header = make_header(layout)
    length = len(header).to_bytes(_LENGTH_BYTES, "little")
    digest = hashlib.sha256(length + header)
    expected = iter(layout.items())
    with AtomicFile(path) as out:
        out.write(bytes(_LENGTH_BYTES) + header)
        for key, tensor in tensors:
            if (key, tensor_info(tensor)) != next(expected, None):
                raise ValueError(f"{path}: {key} {tensor_info(tensor)} is not what the header says")
            data = tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data
            digest.update(data)
            out.write(data)
        if next(expected, None):
            raise ValueError(f"{path}: not all tensors came")
        nbytes = out.tell()
        out.sync()
        out.overwrite(0, length)
    return Written(nbytes, digest.hexdigest())
