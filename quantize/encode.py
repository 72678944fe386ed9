"""One weight as its source has it -> the plain tensors it is stored as, and how well: the work of one thread.

Only a slice of rows is ever in fp32, small enough for the cache.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ..errors import CheckpointError
from ..kernels.ops import dequantize_rows
from .methods import amax_scale, encode_rows, from_groups, mse_scale, to_groups
from .packing import Parts, decode_nf4, encode_nf4, pack_int4
from .quality import ErrorSums, Quality
from .readers.tensor_file import TORCH_NAMES
from .readers.weight_source import check_finite
from .recipe import Choice
from .scheme import INT4_GROUP, Scheme, ceil_div

SLICE_ELEMENTS = 1 << 18  # 1 MiB in fp32: larger slices fall out of the cache and take twice the time
KEPT_SLICE_ELEMENTS = 1 << 22


@dataclass(frozen=True)
class Encoded:
    """A stored weight: its tensors by key. `quality` is None where it is stored exactly as it was."""

    name: str
    choice: Choice
    tensors: Parts
    quality: Quality | None

    @property
    def nbytes(self) -> int:
        return sum(tensor.nbytes for tensor in self.tensors.values())


def encode(name: str, weight: Tensor, choice: Choice, path: Path) -> Encoded:
    """Encode a weight of any float dtype. CheckpointError naming `path` where it is not finite or a matrix of zeros."""
    check_usable(name, weight, path)
    scheme = choice.scheme
    if not scheme.quantized:
        tensors, quality = _keep(name, weight, scheme, path)
    elif scheme.name == "nf4":
        tensors, quality = _encode_nf4(name, weight)
    elif scheme.name == "int4":
        tensors, quality = _encode_int4(name, weight, choice)
    else:
        tensors, quality = _encode_scaled(name, weight, choice)
    return Encoded(name, choice, tensors, quality)


def take_over(name: str, codes: Tensor, scale: Tensor, choice: Choice, path: Path) -> Encoded:
    """Codes that are already what the scheme stores, with a scale [1] or [rows]: nothing is rounded twice."""
    check_usable(name, codes, path)
    scale = scale.to(torch.float32).expand(codes.shape[0]).contiguous()
    return Encoded(name, choice, {name: codes, f"{name}_scale": scale}, None)


def check_usable(name: str, weight: Tensor, path: Path) -> None:
    """CheckpointError for NaN, infinity, and for a matrix of zeros: a layer that is used always has weights."""
    exponent, non_finite = _largest_exponent(weight)
    if exponent == non_finite:
        check_finite(weight, name, path)
    if exponent == 0 and weight.dim() >= 2 and not weight.any():
        raise CheckpointError(
            f"{path}: {name!r} {list(weight.shape)} holds only zeros",
            hint="the file was never filled, or the download was cut; download it again",
        )


# integer type of the same width, exponent bits; fp8 is checked after it is widened
_BITS = {
    torch.bfloat16: (torch.int16, 0x7F80),
    torch.float16: (torch.int16, 0x7C00),
    torch.float32: (torch.int32, 0x7F800000),
    torch.float64: (torch.int64, 0x7FF0000000000000),
}


def _largest_exponent(weight: Tensor) -> tuple[int, int]:
    """The largest exponent field, and that of NaN and infinity: integers are eight times as fast here as aminmax."""
    if weight.dtype not in _BITS:
        weight = weight.to(torch.float16)
    integer, mask = _BITS[weight.dtype]
    pieces = weight.view(integer).view(-1).split(SLICE_ELEMENTS)
    return max((int((piece & mask).amax()) for piece in pieces), default=0), mask


def _keep(name: str, weight: Tensor, scheme: Scheme, path: Path) -> tuple[Parts, Quality | None]:
    dtype: torch.dtype = getattr(torch, TORCH_NAMES[scheme.dtype])
    if weight.dtype == dtype:
        return {name: weight}, None
    kept, sums = weight.to(dtype), ErrorSums()
    check_finite(kept, name, path)
    for original, stored in zip(
        weight.view(-1).split(KEPT_SLICE_ELEMENTS), kept.view(-1).split(KEPT_SLICE_ELEMENTS), strict=True
    ):
        sums.add(original.to(torch.float32), stored.to(torch.float32))
    return {name: kept}, sums.quality() if sums.error else None


def _encode_scaled(name: str, weight: Tensor, choice: Choice) -> tuple[Parts, Quality]:
    codes = torch.empty(weight.shape, dtype=torch.float8_e4m3fn if choice.scheme.name == "fp8" else torch.int8)
    scales, sums = torch.empty(weight.shape[0]), ErrorSums()
    for start, rows in _slices(weight):
        span = slice(start, start + rows.shape[0])
        scales[span] = _choose_scale(choice)(rows, choice.scheme)
        codes[span] = encode_rows(rows, scales[span], choice.scheme)
        sums.add(rows, dequantize_rows(codes[span], scales[span], torch.float32))
    return {name: codes, f"{name}_scale": scales}, sums.quality()


def _encode_int4(name: str, weight: Tensor, choice: Choice) -> tuple[Parts, Quality]:
    rows_total, columns = weight.shape
    packed, sums = torch.empty(rows_total, ceil_div(columns, 2), dtype=torch.uint8), ErrorSums()
    scales = torch.empty(rows_total, ceil_div(columns, INT4_GROUP))
    for start, rows in _slices(weight):
        span, groups = slice(start, start + rows.shape[0]), to_groups(rows)
        scale = _choose_scale(choice)(groups, choice.scheme)
        codes = encode_rows(groups, scale, choice.scheme)
        packed[span], scales[span] = pack_int4(from_groups(codes, columns)), scale.view(rows.shape[0], -1)
        sums.add(rows, from_groups(dequantize_rows(codes, scale, torch.float32), columns))
    return {name: packed, f"{name}_scale": scales}, sums.quality()


def _encode_nf4(name: str, weight: Tensor) -> tuple[Parts, Quality]:
    parts, sums = encode_nf4(weight), ErrorSums()
    sums.add(weight.to(torch.float32), decode_nf4(parts))
    return {f"{name}{key}": tensor for key, tensor in parts.items()}, sums.quality()


def _choose_scale(choice: Choice) -> Callable[[Tensor, Scheme], Tensor]:
    return mse_scale if choice.method == "mse" else amax_scale


def _slices(weight: Tensor) -> Iterator[tuple[int, Tensor]]:
    """The rows of a matrix in fp32, a few at a time, with the index of the first."""
    step = max(1, SLICE_ELEMENTS // weight.shape[1])
    for start in range(0, weight.shape[0], step):
        yield start, weight[start : start + step].to(torch.float32)
