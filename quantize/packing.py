"""Four-bit codes: two to a byte, and bitsandbytes' NF4 with double quantization, encoded and decoded in plain torch.

Sources: QLoRA (https://arxiv.org/abs/2305.14314) for NF4 and double quantization; 8-bit Approximations for Parallelism
in Deep Learning (https://arxiv.org/abs/1511.04561) for the map of the second quantization. The tests hold the encoder
to bitsandbytes' own bytes, bit by bit.
"""

from __future__ import annotations

import json
from functools import cache
from typing import Any

import torch
from torch import Tensor

from ..errors import CheckpointError
from ..kernels.ops import dequantize_nf4
from .readers.tensor_file import TORCH_NAMES
from .scheme import NESTED_BLOCK, NF4_BLOCK, NF4_STATE, ceil_div

Parts = dict[str, Tensor]

# Quantiles of the standard normal distribution, scaled to -1..1, with an exact zero.
NF4_VALUES = (
    -1.0,
    -0.6961928009986877,
    -0.5250730514526367,
    -0.39491748809814453,
    -0.28444138169288635,
    -0.18477343022823334,
    -0.09105003625154495,
    0.0,
    0.07958029955625534,
    0.16093020141124725,
    0.24611230194568634,
    0.33791524171829224,
    0.44070982933044434,
    0.5626170039176941,
    0.7229568362236023,
    1.0,
)
_SMALLEST = 1e-38
_GRID = 65_536
_BINS = 32  # the midpoints lie further apart than 1 / 32


def pack_int4(codes: Tensor) -> Tensor:
    """Codes -7..7 [R, K] int8 -> [R, ceil(K / 2)] uint8: stored + 8, the even column in the high half."""
    shifted = torch.nn.functional.pad((codes + 8).to(torch.uint8), (0, codes.shape[1] % 2), value=8)
    return (shifted[:, ::2] << 4) | shifted[:, 1::2]


def unpack_int4(packed: Tensor, columns: int) -> Tensor:
    """[R, ceil(K / 2)] uint8 -> [R, K] int8."""
    codes = torch.stack([packed >> 4, packed & 15], dim=-1).flatten(1)[:, :columns]
    return codes.to(torch.int8) - 8


def encode_nf4(weight: Tensor) -> Parts:
    """A weight [N, K] (fp16, bf16 or fp32) as bitsandbytes stores it: keys are what follows "<module>.weight"."""
    flat = weight.reshape(-1)
    packed, absmax = _encode_blocks(flat)
    offset = absmax.mean()
    nested, nested_absmax = _encode_bytes(absmax - offset)
    state = {
        "quant_type": "nf4",
        "blocksize": NF4_BLOCK,
        "dtype": str(weight.dtype).removeprefix("torch."),
        "shape": list(weight.shape),
        "nested_blocksize": NESTED_BLOCK,
        "nested_dtype": "float32",
        "nested_offset": offset.item(),
    }
    return {
        "": packed,
        ".absmax": nested,
        ".quant_map": torch.tensor(NF4_VALUES),
        ".nested_absmax": nested_absmax,
        ".nested_quant_map": nested_map(),
        f".{NF4_STATE}": torch.frombuffer(bytearray(json.dumps(state).encode()), dtype=torch.uint8),
    }


def _encode_blocks(flat: Tensor) -> tuple[Tensor, Tensor]:
    """Packed codes [ceil(n / 2), 1] and the absmax of every block, fp32. Small slices keep the work in the cache."""
    size = NF4_BLOCK << 12
    packed, absmax = zip(*(_encode_slice(part.to(torch.float32)) for part in flat.split(size)), strict=True)
    return torch.cat(packed)[:, None], torch.cat(absmax)


def _encode_slice(flat: Tensor) -> tuple[Tensor, Tensor]:
    blocks = _padded(flat, NF4_BLOCK)
    absmax = blocks.abs().amax(dim=1)
    codes = _nearest_nf4(blocks, absmax)[: flat.numel() + flat.numel() % 2]
    return (codes[::2] << 4) | codes[1::2], absmax


def _nearest_nf4(blocks: Tensor, absmax: Tensor) -> Tensor:
    """Codes 0..15 of blocks [B, 64], flat uint8: how many midpoints between neighbouring values lie below each weight.

    A bin says how many lie below it and which one, if any, in it: one comparison instead of fifteen, 4 times as fast.
    """
    scaled = (blocks * (1.0 / absmax.clamp(min=_SMALLEST))[:, None]).view(-1)
    index = (scaled * _BINS).add_(_BINS).to(torch.int32)
    below, bound = _nf4_bins()
    return torch.index_select(below, 0, index) + (scaled > torch.index_select(bound, 0, index))


@cache
def _nf4_bins() -> tuple[Tensor, Tensor]:
    """For each of the bins of 1 / `_BINS` from -1 to 1: midpoints below it, the midpoint in it (9: none)."""
    values = torch.tensor(NF4_VALUES)
    middles: list[float] = ((values[:-1] + values[1:]) / 2).tolist()
    edges = [((start - _BINS) / _BINS - 1e-4, (start - _BINS + 1) / _BINS + 1e-4) for start in range(2 * _BINS + 1)]
    below = [sum(middle < low for middle in middles) for low, _ in edges]
    inside = [next((middle for middle in middles if low <= middle <= high), 9.0) for low, high in edges]
    return torch.tensor(below, dtype=torch.uint8), torch.tensor(inside)


def _encode_bytes(values: Tensor) -> tuple[Tensor, Tensor]:
    """The second quantization: [n] fp32 -> codes of the nearest value in `nested_map` [n] uint8, absmax of every 256.

    Nearest on a grid of 65536 points, as bitsandbytes does on a CPU: its bytes are the reference here.
    """
    blocks = _padded(values, NESTED_BLOCK)
    absmax = blocks.abs().amax(dim=1)
    scaled = (blocks / absmax.clamp(min=_SMALLEST)[:, None]).masked_fill_((absmax == 0)[:, None], -1.0)
    scaled = scaled.view(-1)[: values.numel()]
    index = ((scaled + 1) * ((_GRID - 1) / 2) + 0.5).to(torch.int32)
    return torch.index_select(_nested_codes(), 0, index), absmax


@cache
def _nested_codes() -> Tensor:
    """The code of every grid point from -1 to 1, uint8."""
    grid = (torch.arange(_GRID, dtype=torch.float64) / (_GRID - 1) * 2 - 1).to(torch.float32)
    bounds = (nested_map()[:-1] + nested_map()[1:]) / 2
    return torch.bucketize(grid, bounds).to(torch.uint8)


def _padded(flat: Tensor, size: int) -> Tensor:
    """[n] -> [ceil(n / size), size], zeros behind the end."""
    return torch.nn.functional.pad(flat, (0, ceil_div(flat.numel(), size) * size - flat.numel())).view(-1, size)


@cache
def nested_map() -> Tensor:
    """The 256 sorted values of dynamic 8-bit quantization, fp32: seven decades, finer towards 1."""
    values = [0.0, 1.0]
    for exponent in range(7):
        edges = torch.linspace(0.1, 1, 2**exponent + 1, dtype=torch.float32)
        means = (10 ** (exponent - 6) * ((edges[:-1] + edges[1:]) / 2.0)).tolist()
        values += [*means, *(-mean for mean in means)]
    return torch.tensor(sorted(values), dtype=torch.float32)


def decode_nf4(parts: Parts, dtype: torch.dtype = torch.float32) -> Tensor:
    """The weight [N, K] in `dtype`; `parts` as `encode_nf4` names them. CheckpointError for a malformed state."""
    state = read_nf4_state(parts[f".{NF4_STATE}"])
    absmax = decode_absmax(parts, state["nested_offset"])
    rows, columns = state["shape"]
    return dequantize_nf4(parts[""].reshape(-1), absmax, parts[".quant_map"], (rows, columns), dtype)


def decode_absmax(parts: Parts, offset: float) -> Tensor:
    """The fp32 absmax of every block of 64 weights."""
    codes = parts[".absmax"]
    values = torch.index_select(parts[".nested_quant_map"], 0, codes.to(torch.int32))
    absmax = _padded(values, NESTED_BLOCK) * parts[".nested_absmax"][:, None]
    return absmax.view(-1)[: codes.numel()] + offset


def read_nf4_state(stored: Tensor) -> dict[str, Any]:
    """The JSON that bitsandbytes keeps beside a weight, checked. Raises CheckpointError."""
    try:
        state = json.loads(bytes(stored.tolist()))
        rows, columns = (int(size) for size in state["shape"])
        known = (state["quant_type"], state["blocksize"], state["nested_blocksize"]) == ("nf4", NF4_BLOCK, NESTED_BLOCK)
        offset = float(state["nested_offset"])
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise CheckpointError(f"the quant_state of an nf4 weight is malformed: {error}") from error
    if not known or min(rows, columns) < 1 or state["dtype"] not in TORCH_NAMES.values() or not -1e30 < offset < 1e30:
        raise CheckpointError(f"the quant_state of an nf4 weight is not one that is read: {state!s:.200}")
    return {**state, "shape": [rows, columns], "nested_offset": offset}
