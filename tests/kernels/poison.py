"""Fills new memory with values that must not survive, so that an element a kernel forgets to write is seen."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

ALLOCATORS = (
    (torch, "empty"),
    (torch, "empty_like"),
    (torch, "empty_strided"),
    (Tensor, "new_empty"),
    (Tensor, "new_empty_strided"),
)


def poison(tensor: Tensor) -> Tensor:
    """NaN in floats, the least value in integers (no int8 code is -128), in place."""
    if tensor.dtype in (torch.float8_e4m3fn, torch.float8_e5m2):
        tensor.view(torch.uint8).fill_(0x7F)  # NaN in both
    elif tensor.dtype.is_floating_point:
        tensor.fill_(float("nan"))
    elif tensor.dtype is not torch.bool:
        tensor.fill_(torch.iinfo(tensor.dtype).min)
    return tensor


def poison_new_memory(patch: pytest.MonkeyPatch) -> None:
    """From now on the functions that allocate without writing give poisoned tensors. Fake ones are left alone."""
    for owner, name in ALLOCATORS:
        patch.setattr(owner, name, _poisoned(getattr(owner, name)))


def _poisoned(allocate: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def poisoned(*arguments: Any, **named: Any) -> Tensor:
        made = allocate(*arguments, **named)
        return poison(made) if type(made) is Tensor and made.device.type != "meta" else made

    return poisoned
