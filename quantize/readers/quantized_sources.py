"""The ways fp8 checkpoints carry their scales, brought into one form: a scale for each stored weight.

weight = fp8 * scale. Conventions read:
- official_map: a second file `<name>_map.pt` with one scale per module (the released fp8 pair)
- fp8_scale: the same scales in the file, as `<module>.fp8_scale`
- scale_weight: ComfyUI's `<module>.scale_weight`, a marker `scaled_fp8`, sometimes `<module>.scale_input` (not used)
- weight_scale: newer ComfyUI's `<module>.weight_scale` and `<module>.comfy_quant` (what the weight is, as JSON)
- plain_cast: no scales, the weights were cast as they are
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from ...errors import CheckpointError
from ...files import parse_json
from .tensor_file import FLOAT_DTYPES, FP8_DTYPES, TensorFile, TensorInfo

Convention = Literal["none", "official_map", "fp8_scale", "scale_weight", "weight_scale", "plain_cast"]

_SCALE_SUFFIXES: tuple[Convention, ...] = ("fp8_scale", "scale_weight", "weight_scale")
_UNUSED_SUFFIXES = (".scale_input", ".input_scale")
_KIND_SUFFIX = ".comfy_quant"
_MARKER = "scaled_fp8"
_KINDS_READ = {"float8_e4m3fn", "float8_e5m2"}
_E4M3_LARGEST = 0x7E  # 448


@dataclass(frozen=True)
class Quantization:
    """How a source is quantized.

    `names`: the official names of the weights stored in fp8; `dtype`: their element type.
    """

    convention: Convention
    dtype: str | None
    names: frozenset[str]


@dataclass(frozen=True)
class Scales:
    """The fp32 scales, [1] or [rows], by the weight they belong to (source name without prefix)."""

    convention: Convention
    by_weight: Mapping[str, torch.Tensor]


def is_sidecar(name: str) -> bool:
    """Whether a tensor describes how another one is quantized, and is no weight itself."""
    suffixes = (*(f".{suffix}" for suffix in _SCALE_SUFFIXES), *_UNUSED_SUFFIXES, _KIND_SUFFIX)
    return name == _MARKER or name.endswith(suffixes)


def read_scales(file: TensorFile, names: Mapping[str, str], map_file: TensorFile | None) -> Scales:
    """Find and check the scales.

    `names`: source name without prefix -> stored name; `map_file`: the official pair's second file.
    """
    infos = {name: file.info(stored) for name, stored in names.items() if not is_sidecar(name)}
    for name, info in infos.items():
        _check_float(file.path_of(names[name]), name, info)
    fp8 = {name for name, info in infos.items() if info.dtype in FP8_DTYPES}
    for name in names:
        if name.endswith(_KIND_SUFFIX):
            _check_kind(file, name, names[name])
    conventions = [suffix for suffix in _SCALE_SUFFIXES if any(name.endswith(f".{suffix}") for name in names)]
    if len(conventions) > 1:
        raise CheckpointError(f"{file.paths[0]} holds scales of two kinds, {conventions[0]} and {conventions[1]}")
    if map_file and conventions:
        raise CheckpointError(
            f"{map_file.paths[0]} holds scales, and {file.paths[0]} holds its own", hint="remove one of them"
        )
    if conventions:
        suffix = conventions[0]
        found = {_weight_of(name, suffix): name for name in names if name.endswith(f".{suffix}")}
        return Scales(suffix, _read_all(file, {weight: names[scale] for weight, scale in found.items()}, infos, fp8))
    if map_file and fp8:
        scales = {f"{name}.weight": name for name in map_file.names()}
        return Scales("official_map", _read_all(map_file, scales, infos, fp8))
    return Scales("plain_cast" if fp8 else "none", {})


def _check_float(path: Path, name: str, info: TensorInfo) -> None:
    if info.dtype not in FLOAT_DTYPES:
        raise CheckpointError(
            f"{path}: {name!r} is stored as {info.dtype}; weights are read in {', '.join(sorted(FLOAT_DTYPES))}",
            hint="the file is quantized in a way that is not read; use the bf16 or fp8 checkpoint of the same model",
        )


def _weight_of(scale: str, suffix: str) -> str:
    return f"{scale.removesuffix('.' + suffix)}.weight"


def _check_kind(file: TensorFile, name: str, stored: str) -> None:
    info = file.info(stored)
    try:
        kind = parse_json(bytes(file.read(stored).tolist())) if info.dtype == "U8" and info.nbytes < 4096 else None
    except (ValueError, RecursionError):
        kind = None
    if not isinstance(kind, dict) or kind.get("format") not in _KINDS_READ:
        raise CheckpointError(f"{file.path_of(stored)}: {name!r} names a quantization that is not read: {kind!s:.80}")


def _read_all(
    file: TensorFile, scales: dict[str, str], infos: dict[str, TensorInfo], fp8: set[str]
) -> dict[str, torch.Tensor]:
    """The scale of every fp8 weight; one missing or one too many is an error."""
    path = file.paths[0]
    for weight in sorted(scales.keys() - fp8):
        state = "is not stored in fp8" if weight in infos else "does not exist"
        raise CheckpointError(f"{path} has a scale for {weight!r}, which {state}")
    for weight in sorted(fp8 - scales.keys()):
        raise CheckpointError(
            f"{path} has no scale for {weight!r}, which is stored in fp8", hint="download both files again"
        )
    return {weight: _read_scale(file, stored, weight, infos[weight]) for weight, stored in scales.items()}


def _read_scale(file: TensorFile, stored: str, weight: str, info: TensorInfo) -> torch.Tensor:
    path, shape = file.path_of(stored), file.info(stored).shape
    rows = info.shape[0] if info.shape else 1
    if file.info(stored).dtype not in FLOAT_DTYPES - FP8_DTYPES or shape not in ((), (1,), (1, 1), (rows,), (rows, 1)):
        raise CheckpointError(
            f"{path}: the scale of {weight!r} is {file.info(stored).dtype} {list(shape)}; expected one or one a row"
        )
    scale = file.read(stored).to(torch.float32).reshape(-1)
    if not bool((torch.isfinite(scale) & (scale > 0)).all()):
        raise CheckpointError(
            f"{path}: the scale of {weight!r} is not a positive number", hint="the file is damaged; download it again"
        )
    return scale


def check_plain_cast(weight: torch.Tensor, name: str, path: Path) -> None:
    """Refuse e4m3 weights that reach 448 without a scale: no real weight is that large, so their scales are missing."""
    if weight.dtype == torch.float8_e4m3fn and weight.numel() and largest_code(weight) == _E4M3_LARGEST:
        raise CheckpointError(
            f"{path}: {name!r} is fp8 and reaches 448, so it was scaled, but the file holds no scales",
            hint="the official fp8 file needs its `_map.pt` beside it",
        )


def largest_code(tensor: torch.Tensor) -> int:
    """The largest code of an fp8 tensor, signs left out: codes are ordered as the values are."""
    return int((tensor.view(torch.uint8) & 0x7F).amax())
