"""The attention of others: PyTorch's, and that of the PyPI package sageattention."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from ..errors import ConfigError, MissingPartError, UnsupportedDeviceError
from . import reference
from .attention_variant import KEY_BLOCK
from .capability import capability_of

# On these cards PyTorch takes FlashAttention-2 by itself; cuDNN is a fifth faster (62 beside 51 TFLOPS on sm_86, 106
# beside 86 on sm_89: the median of shapes in PyTorch's pull request 192799).
CUDNN_FIRST = (86, 89, 120)
ORDER = [
    SDPBackend.CUDNN_ATTENTION,
    SDPBackend.FLASH_ATTENTION,
    SDPBackend.EFFICIENT_ATTENTION,
    SDPBackend.MATH,
]
SAGE_HEAD_DIMS = (64, 96, 128)


def sdpa(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """PyTorch's scaled_dot_product_attention. q: [B, S, H, D], k and v: [B, K, H, D] -> [B, S, H, D]."""
    if q.device.type == "cuda" and capability_of(q.device) in CUDNN_FIRST:
        with sdpa_kernel(ORDER, set_priority=True):
            return reference.joint_attention(q, k, v)
    return reference.joint_attention(q, k, v)


def check_sage(device: torch.device) -> None:
    """MissingPartError or UnsupportedDeviceError where sageattention cannot run."""
    if find_spec("sageattention") is None:
        raise MissingPartError(
            "--attention sage needs the package sageattention", hint="pip install sageattention==1.0.6"
        )
    if device.type != "cuda":
        raise UnsupportedDeviceError("--attention sage needs a CUDA device", hint="--attention sdpa runs anywhere")


def check_sage_shape(keys: int, dim: int) -> None:
    """ConfigError for what sageattention 1.0.6 computes wrongly (keys % 64: errors of 10 to 27 %) or not at all."""
    if keys % KEY_BLOCK:
        raise ConfigError(
            f"sageattention 1.0.6 takes keys that are not there for zeros where their number is no multiple of "
            f"{KEY_BLOCK}; here are {keys:,} tokens",
            hint="--attention hvlite masks them exactly",
        )
    if dim not in SAGE_HEAD_DIMS:
        raise ConfigError(f"sageattention takes heads of 64, 96 or 128, not {dim}", hint="use --attention sdpa")


def sage(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """sageattention 1.0.6; shapes as `sdpa`. K should have been shifted by its mean.

    Its own `smooth_k` would subtract the mean from the caller's K in place, so it is off.
    """
    check_sage_shape(k.shape[1], k.shape[3])
    out: Tensor = import_module("sageattention").sageattn(q, k, v, tensor_layout="NHD", smooth_k=False)
    return out
