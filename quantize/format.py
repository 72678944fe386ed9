"""The hvlite folder as a source of named weights. docs/format.md describes the folder byte by byte.

Nothing in it is trusted: names, sizes, element types and shapes are checked against the architecture before a weight is
read.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor

from ..errors import CheckpointError
from ..files import read_json
from .architecture import TransformerConfig
from .decode import decode
from .locate import MANIFEST
from .manifest import (
    FORMAT_VERSION,
    PICTURE,
    REPORT,
    SKIP_KEY,
    Manifest,
    StoredFile,
    complete_architecture,
    read_manifest,
    require_modest,
    stored_path,
)
from .packing import Parts, decode_absmax, read_nf4_state
from .quantized_sources import Quantization
from .safetensors_file import SafetensorsFile, open_safetensors
from .scheme import KEPT_BY_DTYPE, NF4_STATE, SCHEMES, Scheme
from .shapes import Shapes, expected_llama_shapes, expected_transformer_shapes
from .tensor_file import TensorInfo

__all__ = [
    "FORMAT_VERSION",
    "MANIFEST",
    "PICTURE",
    "REPORT",
    "HvliteSource",
    "HvliteTextEncoder",
    "HvliteTransformer",
    "Manifest",
    "StoredFile",
    "open_hvlite_text_encoder",
    "open_hvlite_transformer",
    "read_manifest",
    "stored_path",
]
LLAMA_FIELDS = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "vocab_size")
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


class HvliteTransformer(HvliteSource):
    """The transformer of an hvlite folder."""

    config: TransformerConfig


class HvliteTextEncoder(HvliteSource):
    """The language model of an hvlite folder; `config` is its config.json.

    `skipped_layers`: how many of its layers come after the state that is used; 0, as they are left out.
    """

    config: dict[str, Any]
    skipped_layers: int


def open_hvlite_transformer(root: Path | str, *, config: Mapping[str, Any] | None = None) -> HvliteTransformer:
    """Open the transformer of an hvlite folder; no weight is read. Raises CheckpointError.

    `config` completes the architecture where the source did not say all; ConfigError where it contradicts it.
    """
    root = Path(root)
    manifest = read_manifest(root)
    if manifest.architecture is None:
        raise CheckpointError(f"{root} has no transformer", hint="it was left out when the folder was made")
    architecture = complete_architecture(manifest.architecture, config or {})
    shapes = expected_transformer_shapes(architecture)
    files = _open_files(root, manifest, "transformer")
    try:
        source = HvliteTransformer(root, files, shapes, manifest.schemes.get("transformer", {}))
    except BaseException:
        _close(files)
        raise
    source.config = architecture
    return source


def open_hvlite_text_encoder(root: Path | str) -> HvliteTextEncoder:
    """Open the language model of an hvlite folder; no weight is read. Raises CheckpointError."""
    root = Path(root)
    manifest = read_manifest(root)
    path = stored_path(root, "text_encoder/config.json")
    config = read_json(path)
    try:
        require_modest({name: config[name] for name in LLAMA_FIELDS})
        shapes = expected_llama_shapes({"num_key_value_heads": config["num_attention_heads"], **config})
        skipped = int(config[SKIP_KEY])
    except (KeyError, TypeError, ValueError, ZeroDivisionError) as error:
        raise CheckpointError(
            f"{path} describes no language model: {error!r}", hint="convert the model again"
        ) from error
    files = _open_files(root, manifest, "text_encoder")
    try:
        source = HvliteTextEncoder(root, files, shapes, manifest.schemes.get("text_encoder", {}))
    except BaseException:
        _close(files)
        raise
    source.config = config
    source.skipped_layers = skipped
    return source


def _open_files(root: Path, manifest: Manifest, part: str) -> list[SafetensorsFile]:
    names = [name for name in manifest.files if name.startswith(f"{part}/") and name.endswith(".safetensors")]
    opened: list[SafetensorsFile] = []
    try:
        for name in names:
            path = stored_path(root, name)
            if path.stat().st_size != manifest.files[name].nbytes:
                raise CheckpointError(
                    f"{path} is {path.stat().st_size:,} bytes long; hvlite.json says {manifest.files[name].nbytes:,}",
                    hint="the file is damaged; copy it again, or convert the model again",
                )
            opened.append(open_safetensors(path))
    except BaseException:
        _close(opened)
        raise
    return opened


def _close(files: list[SafetensorsFile]) -> None:
    for file in files:
        file.close()
