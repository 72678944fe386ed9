"""Kernels of an operation on CUDA, started on the card their tensors are on."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from torch._library.custom_ops import CustomOpDef

Launch = Callable[..., Any]


def on_cuda(operation: CustomOpDef) -> Callable[[Launch], Launch]:
    """Register the decorated function as `operation` on CUDA. Its first argument is a tensor.

    PyTorch makes a tensor's card the current one for its own operators, not for those in Python; Triton launches on
    the current one, whatever the tensors say.
    """

    def register(launch: Launch) -> Launch:
        @wraps(launch)
        def on_its_card(first: torch.Tensor, *others: Any) -> Any:
            with torch.cuda.device(first.device):
                return launch(first, *others)

        operation.register_kernel("cuda")(on_its_card)
        return on_its_card

    return register
