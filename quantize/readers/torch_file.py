"""A lazy reader of `.pt` files (zip format of torch.save): `open_torch(path)`.

No pickle is executed and torch.load is never called.
"""

from __future__ import annotations

import os
from math import prod
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from ...errors import CheckpointError
from ...files import open_regular
from .magic import MAGIC_BYTES, REDOWNLOAD, wrong_file
from .tensor_file import DTYPE_BYTES, MAX_DIMS, MAX_ELEMENTS, MAX_TENSORS, TensorInfo, pread_exactly, pread_tensor
from .tensor_pickle import load_plain
from .tensor_records import PickleError, TensorRef
from .zip_directory import ZipError, ZipSpan, read_directory

if TYPE_CHECKING:
    import torch

MAX_PICKLE_BYTES = 16 * 2**20
WRAPPERS = ("module", "model", "state_dict", "ema")  # the official loader's `load_key` is `module`
_CONVERT = "convert it to safetensors in an environment you trust"


class TorchFile:
    """An open `.pt` file. Holds a descriptor and the tensors' places; elements are read on demand."""

    def __init__(self, path: Path, fd: int, tensors: dict[str, TensorRef], spans: dict[str, ZipSpan]) -> None:
        self.path = path
        self.metadata: dict[str, str] = {}
        self._fd = fd
        self._tensors = tensors
        self._spans = spans

    @property
    def paths(self) -> tuple[Path, ...]:
        return (self.path,)

    def names(self) -> list[str]:
        """Tensor names in the order they were saved."""
        return list(self._tensors)

    def info(self, name: str) -> TensorInfo:
        ref = self._ref(name)
        return TensorInfo(ref.dtype, ref.shape)

    def read(self, name: str) -> torch.Tensor:
        """The tensor in its stored dtype, contiguous, in memory of its own.

        A strided view reads the elements it spans.
        """
        ref = self._ref(name)
        offset = self._spans[ref.storage.key].offset + ref.offset * DTYPE_BYTES[ref.dtype]
        if _is_contiguous(ref):
            return pread_tensor(self._fd, self.info(name), offset, self.path, name)
        span = TensorInfo(ref.dtype, (_extent(ref),))
        flat = pread_tensor(self._fd, span, offset, self.path, name)
        return flat.as_strided(ref.shape, ref.strides).contiguous()

    def path_of(self, name: str) -> Path:
        return self.path

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def __enter__(self) -> TorchFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _ref(self, name: str) -> TensorRef:
        try:
            return self._tensors[name]
        except KeyError:
            raise CheckpointError(f"{self.path} has no tensor {name!r}") from None


def open_torch(path: Path | str) -> TorchFile:
    """Open a `.pt` file and check where every tensor lies. Raises CheckpointError naming the file and what is wrong."""
    path = Path(path)
    fd = open_regular(path)
    try:
        spans, value = _read_archive(fd, path)
        tensors = unwrap(value)
        for name, ref in tensors.items():
            _check_tensor(name, ref, spans)
    except ZipError as error:
        os.close(fd)
        raise CheckpointError(f"{path}: {error}", hint=f"the file is damaged; {REDOWNLOAD}") from error
    except PickleError as error:
        os.close(fd)
        raise CheckpointError(f"{path} is refused: {error}", hint=_CONVERT) from error
    except BaseException:
        os.close(fd)
        raise
    return TorchFile(path, fd, tensors, spans)


def _read_archive(fd: int, path: Path) -> tuple[dict[str, ZipSpan], Any]:
    """The spans of the storages by key, and the value that was saved."""
    head = pread_exactly(fd, min(os.fstat(fd).st_size, MAGIC_BYTES), 0, path)
    if not head.startswith(b"PK\x03\x04"):
        raise wrong_file(path, head, "a .pt file in torch's zip format")
    entries = read_directory(fd, path)
    folder = _top_folder(entries)
    pickle = entries[f"{folder}/data.pkl"]
    if f"{folder}/constants.pkl" in entries:
        raise PickleError("it is a TorchScript program, not a checkpoint")
    if pickle.size > MAX_PICKLE_BYTES:
        raise PickleError(f"its pickle is {pickle.size} bytes long; at most {MAX_PICKLE_BYTES} are read")
    _check_byte_order(fd, path, entries.get(f"{folder}/byteorder"))
    data = f"{folder}/data/"
    spans = {name.removeprefix(data): span for name, span in entries.items() if name.startswith(data)}
    return spans, load_plain(pread_exactly(fd, pickle.size, pickle.offset, path))


def _top_folder(entries: dict[str, ZipSpan]) -> str:
    """torch writes everything under one folder, named after the file it was saved to first."""
    folders = [name.removesuffix("/data.pkl") for name in entries if name.endswith("/data.pkl")]
    if len(folders) != 1:
        raise ZipError(
            "it is a zip archive that torch.save did not write" if not folders else "it holds two checkpoints"
        )
    return folders[0]


def _check_byte_order(fd: int, path: Path, span: ZipSpan | None) -> None:
    if span and pread_exactly(fd, min(span.size, 16), span.offset, path) != b"little":
        raise PickleError("its numbers are not stored in little-endian order")


def unwrap(value: object) -> dict[str, TensorRef]:
    """The state dict in what was saved: under one of `WRAPPERS`, or the value itself. Raises PickleError."""
    if isinstance(value, dict):
        for key in WRAPPERS:
            if isinstance(value.get(key), dict):
                value = value[key]
                break
    if not isinstance(value, dict) or not value:
        raise PickleError(f"it holds no state dict, neither bare nor under {', '.join(WRAPPERS)}")
    for name, item in value.items():
        if not isinstance(name, str) or not name.isprintable() or not isinstance(item, TensorRef):
            raise PickleError(f"the entry {name!r:.200} is not a tensor under a printable name")
    if len(value) > MAX_TENSORS:
        raise PickleError(f"it holds {len(value)} tensors; at most {MAX_TENSORS} are read")
    return value


def _is_contiguous(ref: TensorRef) -> bool:
    expected = 1
    for size, stride in zip(reversed(ref.shape), reversed(ref.strides), strict=True):
        if size != 1 and stride != expected:
            return 0 in ref.shape
        expected *= size
    return True


def _extent(ref: TensorRef) -> int:
    """Elements from the first to the last one the view touches."""
    if 0 in ref.shape:
        return 0
    return 1 + sum((size - 1) * stride for size, stride in zip(ref.shape, ref.strides, strict=True))


def _check_tensor(name: str, ref: TensorRef, spans: dict[str, ZipSpan]) -> None:
    """The view lies inside its storage, and does not repeat elements to be larger than it."""
    storage = ref.storage
    span = spans.get(storage.key)
    if span is None:
        raise PickleError(f"the data of {name!r} is missing (entry data/{storage.key:.40})")
    if storage.numel < 0 or storage.numel * DTYPE_BYTES[storage.dtype or "U8"] != span.size:
        raise PickleError(
            f"{name!r} expects {storage.numel} elements in an entry of {span.size} bytes: the file is damaged"
        )
    if (
        len(ref.shape) != len(ref.strides)
        or len(ref.shape) > MAX_DIMS
        or min((0, ref.offset, *ref.shape, *ref.strides)) < 0
    ):
        raise PickleError(f"{name!r} has the impossible shape {ref.shape} with strides {ref.strides}")
    if prod(size or 1 for size in ref.shape) > MAX_ELEMENTS:
        raise PickleError(f"the shape of {name!r} overflows")
    width = DTYPE_BYTES[ref.dtype]
    if (ref.offset + _extent(ref)) * width > span.size or prod(ref.shape) * width > span.size:
        raise PickleError(f"{name!r} reaches past the end of its data: shape {ref.shape}, {span.size} bytes")
