"""Telling that memory ran out, whoever says it and however, and giving back what can be given back."""

from __future__ import annotations

import errno
import gc

import torch

# How torch's allocators and the CUDA libraries say it when they do not raise OutOfMemoryError. A library that finds no
# memory for itself is "not initialized". A convolution tries cuDNN's engines one by one and swallows that a workspace
# did not fit: the last line is what it says after the last.
_SAYINGS = (
    "can't allocate memory",
    "out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUBLAS_STATUS_NOT_INITIALIZED",
    "CUDNN_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_NOT_INITIALIZED",
    "CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED",
    "unable to find an engine to execute this computation",
)


def out_of_memory(error: BaseException) -> str | None:
    """What an error says of memory that ran out, in one line; None for any other error."""
    if isinstance(error, MemoryError):
        return str(error) or "the machine has no memory left"
    if isinstance(error, OSError):
        return error.strerror if error.errno == errno.ENOMEM else None
    if isinstance(error, torch.OutOfMemoryError) or (
        isinstance(error, RuntimeError) and any(saying in str(error) for saying in _SAYINGS)
    ):
        return str(error).splitlines()[0]
    return None


def free_memory(device: torch.device) -> None:
    """Give back what nobody holds any more. Call it when the error is forgotten: a traceback keeps every tensor."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
