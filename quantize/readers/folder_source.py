"""The weights of one part of an hvlite folder as named tensors.

Nothing in a folder is trusted: names, sizes, element types and shapes are checked against the architecture before a
weight is read.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

import torch
from torch import Tensor

from ...errors import CheckpointError
from ..decode import decode
from ..packing import Parts, decode_absmax, read_nf4_state
from ..scheme import KEPT_BY_DTYPE, NF4_STATE, SCHEMES, Scheme
from .quantized_sources import Quantization
from .safetensors_file import SafetensorsFile
from .shapes import Shapes
from .tensor_file import TensorInfo

_DAMAGED = "the file is damaged; `hvlite verify` tells which ones are"


class HvliteSource:
    """The weights of one part of an hvlite folder under their official names; as a `WeightSource`, and by scheme.

    `read_parts(name)` gives the plain tensors a weight is stored as: {"": codes, "_scale": scale} and nf4's others.
    """

    names_layout = "official"

    def __init__(self, root: Path, files: list[SafetensorsFile], shapes: Shapes, schemes: Mapping[str, str]) -> None:
        self.root = root
        self._files = files
        self._shapes = shapes
        self._where = {key: file for file in files for key in file.names()}
        self._schemes = {name: self._scheme(name, schemes) for name in shapes}
        self._check()

    def _scheme(self, name: str, schemes: Mapping[str, str]) -> Scheme:
        if name in schemes:
            return SCHEMES[schemes[name]]
        if name not in self._where:
            raise CheckpointError(
                f"{self.root} has no tensor {name!r}", hint="the folder is incomplete; convert the model again"
            )
        dtype = self._where[name].info(name).dtype
        if dtype not in KEPT_BY_DTYPE:
            raise CheckpointError(
                f"{self._where[name].path}: {name!r} is stored as {dtype}, which hvlite.json does not explain"
            )
        return KEPT_BY_DTYPE[dtype]

    def _check(self) -> None:
        """Every tensor there should be is there once with its type and shape, and there are no others."""
        wanted = {key: info for name in self._shapes for key, info in self._tensors(name).items()}
        for key in sorted(wanted.keys() ^ self._where.keys()):
            state = "is missing" if key in wanted else "belongs to nothing"
            raise CheckpointError(f"{self.root}: the tensor {key!r} {state}", hint="convert the model again")
        if sum(len(file.names()) for file in self._files) != len(self._where):
            raise CheckpointError(f"{self.root}: a tensor is stored twice", hint="convert the model again")
        for key, info in wanted.items():
            found = self._where[key].info(key)
            if found != info and not (key.endswith(NF4_STATE) and found.dtype == "U8" and len(found.shape) == 1):
                raise CheckpointError(
                    f"{self._where[key].path}: {key!r} is {found.dtype} {list(found.shape)}, expected {info}"
                )

    def _tensors(self, name: str) -> dict[str, TensorInfo]:
        return self._schemes[name].tensors(name, self._shapes[name])

    @property
    def paths(self) -> tuple[Path, ...]:
        return tuple(file.path for file in self._files)

    @property
    def metadata(self) -> dict[str, str]:
        return {}

    @property
    def total_bytes(self) -> int:
        return sum(file.info(key).nbytes for key, file in self._where.items())

    @property
    def quantization(self) -> Quantization:
        names = frozenset(name for name, scheme in self._schemes.items() if scheme.name == "fp8")
        return Quantization("weight_scale" if names else "none", "F8_E4M3" if names else None, names)

    def names(self) -> list[str]:
        """Official names, in the order of the architecture table."""
        return list(self._shapes)

    def scheme(self, name: str) -> Scheme:
        """How the weight is stored."""
        return self._schemes[name]

    def info(self, name: str) -> TensorInfo:
        """The codes' element type and the weight's own shape; nothing is read."""
        return TensorInfo(self._schemes[name].dtype, self._shapes[name])

    def path_of(self, name: str) -> Path:
        return self._where[name].path

    def read(self, name: str) -> Tensor:
        """The stored codes of the weight: its values where it is not quantized."""
        return self._where[name].read(name)

    def read_parts(self, name: str) -> Parts:
        """All tensors the weight is stored as, by what follows its name."""
        return {key.removeprefix(name): self._where[key].read(key) for key in self._tensors(name)}

    def read_scaled(self, name: str) -> tuple[Tensor, Tensor]:
        """Codes [rows, columns] and scales [rows] fp32 of an fp8 or int8 weight. CheckpointError for a wrong scale."""
        parts = self.read_parts(name)
        scale = parts["_scale"]
        if not bool((torch.isfinite(scale) & (scale > 0)).all()):
            raise CheckpointError(
                f"{self.path_of(name)}: the scales of {name!r} are not all positive numbers", hint=_DAMAGED
            )
        return parts[""], scale

    def read_nf4(self, name: str) -> tuple[Tensor, Tensor, Tensor]:
        """Packed codes [bytes] uint8, absmax of every block of 64 and the 16 values of an nf4 weight, both fp32."""
        parts = self.read_parts(name)
        state = read_nf4_state(parts[f".{NF4_STATE}"])
        if tuple(state["shape"]) != self._shapes[name]:
            raise CheckpointError(
                f"{self.path_of(name)}: {name!r} says it is {state['shape']}, expected {self._shapes[name]}"
            )
        absmax, values = decode_absmax(parts, state["nested_offset"]), parts[".quant_map"]
        if not bool(torch.isfinite(absmax).all() and torch.isfinite(values).all()):
            raise CheckpointError(f"{self.path_of(name)}: the scales of {name!r} are not all finite", hint=_DAMAGED)
        return parts[""].reshape(-1), absmax, values

    def read_scale(self, name: str) -> Tensor | None:
        """The fp32 scales [rows] of an fp8 or int8 weight."""
        return self._where[name].read(f"{name}_scale") if self._schemes[name].granularity == "per_channel" else None

    def read_dequantized(
        self, name: str, dtype: torch.dtype = torch.float32, scale_dtype: torch.dtype | None = None
    ) -> Tensor:
        """The weight's values in `dtype`; `scale_dtype` rounds the scales first."""
        parts = self.read_parts(name)
        if scale_dtype is not None and "_scale" in parts:
            parts["_scale"] = parts["_scale"].to(scale_dtype).to(torch.float32)
        return decode(self._schemes[name], parts, self._shapes[name], dtype)

    def close(self) -> None:
        for file in self._files:
            file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
