"""A block's weights on disk: one file, whose data section is the block's flat buffer. Read whole, never mapped."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from ...errors import CheckpointError
from ...files import open_regular, read_error
from ...quantize.format import HvliteTransformer
from ...quantize.readers.safetensors_file import SafetensorsFile, open_safetensors
from ...quantize.readers.tensor_file import DTYPE_BYTES, TensorInfo
from ...quantize.scheme import Scheme
from ...quantize.source import check_finite
from .host_memory import bytes_of

RUNNABLE_SCHEMES = ("fp8", "int8", "bf16", "fp16", "fp32")
_MODULATION = re.compile(r"\.(img_mod|txt_mod|modulation)\.linear\.")
READ_BYTES = 1 << 26  # a call: large enough for any disk, small enough that a stop is not long in coming


@dataclass(frozen=True)
class StoredTensor:
    """A tensor of a block: its name inside the block, and its place in the flat buffer."""

    name: str
    info: TensorInfo
    offset: int

    def view(self, flat: Tensor) -> Tensor:
        """The tensor in a flat buffer (uint8), sharing its memory."""
        return flat[self.offset : self.offset + self.info.nbytes].view(self.info.torch_dtype).view(self.info.shape)


@dataclass(frozen=True)
class BlockLayout:
    """What a flat buffer holds. Blocks of equal layout differ in nothing but the values of their weights."""

    kind: str  # double_blocks or single_blocks
    tensors: tuple[StoredTensor, ...]
    nbytes: int

    def views(self, flat: Tensor) -> dict[str, Tensor]:
        """Every tensor by its name inside the block, sharing the memory of `flat` (uint8, at least `nbytes`)."""
        return {tensor.name: tensor.view(flat) for tensor in self.tensors}


@dataclass(frozen=True)
class _Identity:
    """What tells that a file is still the one whose header was checked."""

    device: int
    inode: int
    size: int
    changed_ns: int

    @classmethod
    def of(cls, fd: int) -> _Identity:
        stat = os.fstat(fd)
        return cls(stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns)

    @classmethod
    def of_file(cls, path: Path) -> _Identity:
        fd = open_regular(path)
        try:
            return cls.of(fd)
        finally:
            os.close(fd)


@dataclass(frozen=True)
class BlockFile:
    """A block's file, checked once. No descriptor is held: each read opens it and looks whether it is the same."""

    path: Path
    name: str  # double_blocks.7
    layout: BlockLayout
    _start: int
    _identity: _Identity

    @classmethod
    def open(cls, path: Path, name: str, schemes: Mapping[str, Scheme]) -> BlockFile:
        """Check the header of `path`, which must hold block `name` and nothing else.

        `schemes`: how each of its weights is stored, by the name inside the block. Raises CheckpointError.
        """
        identity = _Identity.of_file(path)  # before the header is read: a file replaced in between is refused later
        with open_safetensors(path) as file:
            keys = sorted(file.names(), key=file.offset)
            _check_keys(path, name, keys, schemes)
            _check_values(file, [key for key in keys if len(file.info(key).shape) == 1])
            start = file.offset(keys[0])
            tensors = tuple(
                StoredTensor(key[len(name) + 1 :], file.info(key), file.offset(key) - start) for key in keys
            )
        for tensor in tensors:
            if tensor.offset % DTYPE_BYTES[tensor.info.dtype]:
                raise CheckpointError(
                    f"{path}: {tensor.name} does not start on a multiple of its element size",
                    hint="the file was not written by hvlite: convert the model again",
                )
        layout = BlockLayout(name.partition(".")[0], tensors, tensors[-1].offset + tensors[-1].info.nbytes)
        return cls(path, name, layout, start, identity)

    @property
    def nbytes(self) -> int:
        """Bytes of the data section."""
        return self.layout.nbytes

    def fill(self, target: Tensor) -> None:
        """Read the data section into `target`: uint8 in host memory, at least `nbytes`.

        Raises CheckpointError where the file is gone, was replaced or became shorter.
        """
        fd = open_regular(self.path)
        try:
            if _Identity.of(fd) != self._identity:
                raise CheckpointError(
                    f"{self.path} was changed while it was in use", hint="run the same command again with --resume"
                )
            self._read(fd, bytes_of(target)[: self.nbytes])
        finally:
            os.close(fd)

    def _read(self, fd: int, buffer: memoryview) -> None:
        done = 0
        while done < len(buffer):
            try:
                count = os.preadv(fd, [buffer[done : done + READ_BYTES]], self._start + done)
            except OSError as error:
                raise read_error(self.path, error) from error
            if not count:
                raise CheckpointError(
                    f"{self.path} ends {len(buffer) - done:,} bytes early: it became shorter while it was read",
                    hint="restore the file, then run the same command again with --resume",
                )
            done += count


def _check_keys(path: Path, name: str, keys: list[str], schemes: Mapping[str, Scheme]) -> None:
    """The tensors of one block, all of them, and no others."""
    for weight, scheme in schemes.items():
        if scheme.name not in RUNNABLE_SCHEMES:
            raise CheckpointError(
                f"{path}: {name}.{weight} is stored as {scheme.name}, which the transformer cannot run from",
                hint=f"convert the model again with one of {', '.join(RUNNABLE_SCHEMES)} for it",
            )
    scaled = {f"{name}.{weight}_scale" for weight, scheme in schemes.items() if scheme.quantized}
    strange = {f"{name}.{weight}" for weight in schemes} ^ scaled ^ set(keys)
    if strange:
        raise CheckpointError(
            f"{path} should hold the tensors of {name} and nothing else: {min(strange)} is there or is not",
            hint="convert the model again",
        )


def _check_values(file: SafetensorsFile, keys: Iterable[str]) -> None:
    """Scales, biases and norms: finite, and scales positive. Codes are not looked at: that would read it all."""
    for key in keys:
        tensor = file.read(key)
        check_finite(tensor, key, file.path)
        if key.endswith("_scale") and not bool((tensor > 0).all()):
            raise CheckpointError(
                f"{file.path}: the scales in {key!r} are not all positive numbers",
                hint="the file is damaged; copy it again, or convert the model again",
            )


def open_block_files(source: HvliteTransformer) -> list[BlockFile]:
    """The file of every block, double blocks first, each checked. Raises CheckpointError."""
    depths = {
        "double_blocks": source.config.mm_double_blocks_depth,
        "single_blocks": source.config.mm_single_blocks_depth,
    }
    return [_open_block(source, f"{kind}.{index}") for kind, depth in depths.items() for index in range(depth)]


def _open_block(source: HvliteTransformer, block: str) -> BlockFile:
    names = [name for name in source.names() if name.startswith(f"{block}.") and not _MODULATION.search(name)]
    schemes = {name.removeprefix(f"{block}."): source.scheme(name) for name in names}
    return BlockFile.open(source.path_of(names[0]), block, schemes)
