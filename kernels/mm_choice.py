"""Which kernel multiplies 8-bit codes on which card: a table, and the one function that reads it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

MmKernel = Literal["hvlite", "torch"]


@dataclass(frozen=True)
class MmChoice:
    """`torch`: `torch._scaled_mm` with row scales. It makes new bf16 tensors only: what goes into a view, or is
    added to the residual, is ours everywhere. `why`: the numbers or the limit that chose."""

    kernel: MmKernel
    why: str


_INT_MM = (
    "not measured on this card: torch._int_mm leaves int32 sums of 4 bytes in memory and needs a second pass for "
    "scales and bias, and asks cuBLASLt without its heuristics"
)
_SCALED_MM = (
    "not measured on this card: CUTLASS reaches {published} TFLOPS (published, row scales); ours is bound by {bound}"
)
CHOICES: dict[str, dict[int, MmChoice]] = {
    "int8_mm": {each: MmChoice("hvlite", _INT_MM) for each in (80, 86, 89, 90, 120)},
    "fp8_mm": {
        89: MmChoice("torch", _SCALED_MM.format(published="280 to 300", bound="305")),
        90: MmChoice("torch", _SCALED_MM.format(published="1100 to 1300", bound="1558")),
        120: MmChoice("torch", _SCALED_MM.format(published="389", bound="396")),
    },
}


def choose_mm(name: str, capability: int) -> MmChoice | None:
    """The kernel for `int8_mm` or `fp8_mm` on a capability such as 89; None where the card cannot multiply the codes.

    A capability that is not in the table takes the entry of the nearest lower one.
    """
    known = max((each for each in CHOICES[name] if each <= capability), default=None)
    return None if known is None else CHOICES[name][known]
