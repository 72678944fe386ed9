"""The compute capability of a device as one number, and whether our kernels run there."""

from __future__ import annotations

from functools import cache

import torch

from .triton_state import triton_state

OLDEST_CAPABILITY = 80  # below, there is neither bf16 nor int8 on the tensor cores as the kernels use them


@cache
def capability_of(device: torch.device) -> int:
    """major * 10 + minor of a CUDA device, such as 89; 90 where there is no CUDA (interpreter, fake tensors)."""
    if device.type != "cuda" or not torch.cuda.is_available():
        return 90
    major, minor = torch.cuda.get_device_capability(device)
    return major * 10 + minor


@cache
def runs_kernels(device: torch.device) -> bool:
    """Whether operations on this device run our kernels; where not, they run their PyTorch reference."""
    return device.type == "cuda" and triton_state().usable and capability_of(device) >= OLDEST_CAPABILITY
