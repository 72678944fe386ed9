"""Whether what the model made can be a video: numbers, and not one number everywhere. One read of the device a look."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def fault_of(values: Tensor) -> str | None:
    """What is wrong with them, or None: "has NaN or infinity in it", "is 0 everywhere".

    The least and the largest value say both (NaN is passed on), and reach the host in one copy: one sync a call. A
    healthy model never gives one value everywhere; weights of zeros, or a file of the right size without data, do.
    """
    low, high = torch.stack(torch.aminmax(values.detach())).float().tolist()
    if not (math.isfinite(low) and math.isfinite(high)):
        return "has NaN or infinity in it"
    return f"is {low:g} everywhere" if low == high and values.numel() > 1 else None


def frames_fault(frames: Tensor) -> str | None:
    """uint8 frames [f, H, W, 3] of one colour and no other: "black", "white", or the value; None for a picture."""
    low, high = torch.stack(torch.aminmax(frames)).tolist()
    if low != high:
        return None
    return {0: "black", 255: "white"}.get(low, f"{low} in every pixel")
