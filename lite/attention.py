"""Which attention a run uses: chosen once, from what was asked for and what the card is, and passed on as a value."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch

from ..errors import ConfigError, UnsupportedDeviceError
from ..kernels.attention_variant import (
    HEAD_DIMS,
    INT8_FP8,
    INT8_FP8_FP16,
    INT8_FP16,
    SIXTEEN_BIT,
    VARIANTS,
    AttentionVariant,
)
from ..kernels.sdpa import check_sage
from ..kernels.triton_state import require_triton, triton_state
from .device import DeviceInfo

NAMES = ("auto", "hvlite", "sdpa", "sage")
Kernel = Literal["hvlite", "sdpa", "sage"]


@dataclass(frozen=True)
class Attention:
    """What multiplies Q, K and V. `variant` is None but for our own kernel; `why` is what the choice rests on."""

    kernel: Kernel
    variant: AttentionVariant | None
    why: str
    is_chosen: bool = False  # by name, and so not to be replaced

    def __str__(self) -> str:
        names = {"sdpa": "torch sdpa", "sage": "sageattention", "hvlite": "hvlite"}
        return names[self.kernel] + (f" {self.variant.name}" if self.variant else "")

    @property
    def kv_name(self) -> str:
        """How K and V are held, by the name that the plan has for it."""
        return self.variant.name if self.variant and self.variant.is_quantized else SIXTEEN_BIT.name

    def for_heads(self, dim: int, device: torch.device) -> Attention:
        """This one, or PyTorch's where our kernel has not these heads. ConfigError if ours was asked for by name."""
        if self.kernel != "hvlite" or dim in HEAD_DIMS or device.type != "cuda":
            return self
        why = f"our kernel takes heads of {' and '.join(map(str, HEAD_DIMS))}, this transformer has heads of {dim}"
        if self.is_chosen:
            raise ConfigError(f"--attention hvlite: {why}", hint="--attention sdpa takes any")
        return Attention("sdpa", None, why)


EXACT = Attention("sdpa", None, "exact")

_RATE = "not measured on this card: bound {ours} TOPS; published: sageattention 1.0.6 {sage}, FlashAttention-2 {flash}"
# By compute capability; one that is not here takes the entry of the nearest lower one.
AUTO: dict[int, tuple[AttentionVariant, str]] = {
    80: (INT8_FP16, "not measured on this card: int8 has twice the rate of bf16; no fp8"),
    86: (INT8_FP16, _RATE.format(ours=146, sage=134, flash="68 to 71")),
    89: (INT8_FP8_FP16, _RATE.format(ours=464, sage=322, flash=164)),
    90: (INT8_FP8, _RATE.format(ours=879, sage=518, flash=339)),
    120: (INT8_FP8_FP16, _RATE.format(ours=598, sage=479, flash=214)),
}
CPU_VARIANT = INT8_FP16  # the most exact of those in 8 bits


def choose_attention(name: str, info: DeviceInfo, dtype: torch.dtype) -> Attention:
    """`name`: auto, hvlite, sdpa, sage, or hvlite:VARIANT. `dtype` is the transformer's.

    ConfigError for another name; UnsupportedDeviceError or MissingPartError where what was named cannot run here.
    """
    kernel, _, variant = name.partition(":")
    if kernel not in NAMES or (variant and (kernel != "hvlite" or variant not in VARIANTS)):
        raise ConfigError(
            f"--attention {name}: no such attention",
            hint=f"one of {', '.join(NAMES)}, or hvlite: with one of {', '.join(VARIANTS)}",
        )
    if kernel == "auto":
        return _automatic(info, dtype)
    if kernel == "hvlite":
        return _ours(info, VARIANTS[variant] if variant else None)
    if kernel == "sage":
        check_sage(info.device)
    return Attention("sage" if kernel == "sage" else "sdpa", None, "asked for", is_chosen=True)


def _automatic(info: DeviceInfo, dtype: torch.dtype) -> Attention:
    if not info.is_cuda:
        return Attention("sdpa", None, "a CPU computes in fp32, exactly")
    if dtype is torch.float32:
        return Attention("sdpa", None, "fp32 was asked for, and 8 bits would not give it")
    if not triton_state().usable:
        return Attention("sdpa", None, f"Triton: {triton_state().reason}")
    found = _of_card(info)
    if found is None:
        return Attention("sdpa", None, "our kernels need compute capability 8.0")
    return Attention("hvlite", *found)


def _ours(info: DeviceInfo, variant: AttentionVariant | None) -> Attention:
    if not info.is_cuda:
        why = "the reference of our kernel: its arithmetic, slowly"
        return Attention("hvlite", variant or CPU_VARIANT, why, is_chosen=True)
    require_triton("--attention hvlite", triton_state())
    found = _of_card(info)
    if found is None:
        raise UnsupportedDeviceError(
            f"--attention hvlite needs compute capability 8.0; {info.name} has less", hint="use --attention sdpa"
        )
    chosen = variant or found[0]
    if _number(info) < chosen.least_capability:
        raise UnsupportedDeviceError(
            f"{info.name} has no fp8, which {chosen.name} needs", hint="use --attention hvlite"
        )
    return Attention("hvlite", chosen, "asked for" if variant else found[1], is_chosen=True)


def _of_card(info: DeviceInfo) -> tuple[AttentionVariant, str] | None:
    known = max((each for each in AUTO if each <= _number(info)), default=None)
    return None if known is None else AUTO[known]


def _number(info: DeviceInfo) -> int:
    major, minor = info.capability or (0, 0)
    return major * 10 + minor
