"""What a stored weight is. A scheme is a value that says which plain tensors a weight becomes, and of how many bytes.

fp8    e4m3fn codes, one fp32 scale for each output channel (row)
int8   symmetric codes -127..127, one fp32 scale for each output channel
int4   two codes a byte (-7..7, stored + 8, high nibble first), one fp32 scale for every 64 columns of a row
nf4    bitsandbytes' form: 64 weights share an absmax, 256 absmax values share a second one ("double quantization")
bf16, fp16, fp32   the weight itself
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Literal

from .readers.tensor_file import TensorInfo

Granularity = Literal["per_channel", "per_group", "per_block", "none"]
SchemeName = Literal["fp8", "int8", "int4", "nf4", "bf16", "fp16", "fp32"]

FP8_LARGEST = 448.0
INT8_LARGEST = 127.0
INT4_LARGEST = 7.0
INT4_GROUP = 64
NF4_BLOCK = 64
NESTED_BLOCK = 256
NF4_STATE = "quant_state.bitsandbytes__nf4"
NF4_STATE_BYTES = 256  # an upper bound: the JSON holds a shape and one float


@dataclass(frozen=True)
class Scheme:
    """How a weight is stored. `dtype`: safetensors' name of the codes' element type; `largest`: the largest code."""

    name: SchemeName
    dtype: str
    granularity: Granularity = "none"
    largest: float = 0.0

    @property
    def quantized(self) -> bool:
        return self.granularity != "none"

    def tensors(self, name: str, shape: tuple[int, ...]) -> dict[str, TensorInfo]:
        """The tensors that the weight `name` is stored as; the length of nf4's state is an upper bound."""
        match self.name:
            case "fp8" | "int8":
                return {name: TensorInfo(self.dtype, shape), f"{name}_scale": TensorInfo("F32", shape[:1])}
            case "int4":
                rows, columns = shape
                packed, groups = (rows, ceil_div(columns, 2)), (rows, ceil_div(columns, INT4_GROUP))
                return {name: TensorInfo(self.dtype, packed), f"{name}_scale": TensorInfo("F32", groups)}
            case "nf4":
                return _nf4_tensors(name, prod(shape))
        return {name: TensorInfo(self.dtype, shape)}


def _nf4_tensors(name: str, count: int) -> dict[str, TensorInfo]:
    blocks = ceil_div(count, NF4_BLOCK)
    return {
        name: TensorInfo("U8", (ceil_div(count, 2), 1)),
        f"{name}.absmax": TensorInfo("U8", (blocks,)),
        f"{name}.quant_map": TensorInfo("F32", (16,)),
        f"{name}.nested_absmax": TensorInfo("F32", (ceil_div(blocks, NESTED_BLOCK),)),
        f"{name}.nested_quant_map": TensorInfo("F32", (256,)),
        f"{name}.{NF4_STATE}": TensorInfo("U8", (NF4_STATE_BYTES,)),
    }


def ceil_div(count: int, size: int) -> int:
    """How many groups of `size` hold `count` things."""
    return -(-count // size)


SCHEMES: dict[str, Scheme] = {
    scheme.name: scheme
    for scheme in (
        Scheme("fp8", "F8_E4M3", "per_channel", FP8_LARGEST),
        Scheme("int8", "I8", "per_channel", INT8_LARGEST),
        Scheme("int4", "U8", "per_group", INT4_LARGEST),
        Scheme("nf4", "U8", "per_block"),
        Scheme("bf16", "BF16"),
        Scheme("fp16", "F16"),
        Scheme("fp32", "F32"),
    )
}
KEPT_BY_DTYPE = {scheme.dtype: scheme for scheme in SCHEMES.values() if not scheme.quantized}
