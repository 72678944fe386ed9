"""How quantized linear layers are multiplied: chosen once for a device, passed on as a value, named in the summary."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch

from ..errors import ConfigError, UnsupportedDeviceError
from ..kernels.capability import capability_of, runs_kernels
from ..kernels.mm_choice import choose_mm
from .config import LINEAR_CHOICES

Arithmetic = Literal["dequantize", "w8a8"]
_OPERATIONS = {torch.int8: "int8_mm", torch.float8_e4m3fn: "fp8_mm"}


@dataclass(frozen=True)
class LinearArithmetic:
    """The arithmetic for int8 and for fp8 weights.

    dequantize: weights are widened to the activations' dtype (on a card: inside the product, tile by tile).
    w8a8: activations are quantized too, one scale a token; products of 8-bit codes.
    """

    int8: Arithmetic = "dequantize"
    fp8: Arithmetic = "dequantize"

    def of(self, dtype: torch.dtype) -> Arithmetic:
        """For weights whose codes have this dtype."""
        return self.int8 if dtype == torch.int8 else self.fp8

    def __str__(self) -> str:
        return self.int8 if self.int8 == self.fp8 else f"int8 {self.int8}, fp8 {self.fp8}"


DEQUANTIZE = LinearArithmetic()


def choose_arithmetic(asked: str, capability: int | None) -> LinearArithmetic:
    """auto, w8a8 or dequantize on a card of this capability (89, ...); None: no card that runs our kernels.

    auto is w8a8 where the card multiplies such codes, else dequantize: on a CPU always. w8a8 on a CPU computes what the
    cards compute, slowly. UnsupportedDeviceError for w8a8 on a card without it.
    """
    if asked not in LINEAR_CHOICES:
        raise ConfigError(f"linear is {asked!r}", hint=f"one of {', '.join(LINEAR_CHOICES)}")
    if asked != "auto" and (asked == "dequantize" or capability is None):
        both: Arithmetic = "w8a8" if asked == "w8a8" else "dequantize"
        return LinearArithmetic(both, both)
    int8, fp8 = (_fastest(name, capability) for name in ("int8_mm", "fp8_mm"))
    if asked == "w8a8" and fp8 == "dequantize":
        raise UnsupportedDeviceError(
            f"linear w8a8: this card ({capability}) does not multiply fp8", hint="auto takes w8a8 where the card has it"
        )
    return LinearArithmetic(int8, fp8)


def kernel_capability(device: torch.device) -> int | None:
    """The capability that decides; None where operations run their PyTorch reference."""
    return capability_of(device) if runs_kernels(device) else None


def describe_kernels(device: torch.device, arithmetic: LinearArithmetic) -> str:
    """What multiplies, for the summary: `w8a8 (int8 by hvlite, fp8 by torch)`."""
    capability = kernel_capability(device)
    if capability is None:
        return str(arithmetic)
    return f"{arithmetic} ({', '.join(_by(dtype, arithmetic, capability) for dtype in _OPERATIONS)})"


def _fastest(name: str, capability: int | None) -> Arithmetic:
    return "dequantize" if capability is None or choose_mm(name, capability) is None else "w8a8"


def _by(dtype: torch.dtype, arithmetic: LinearArithmetic, capability: int) -> str:
    name = _OPERATIONS[dtype]
    choice = choose_mm(name, capability) if arithmetic.of(dtype) == "w8a8" else None
    return f"{name.removesuffix('_mm')} by {'hvlite' if choice is None else choice.kernel}"
