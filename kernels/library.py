"""Operations as PyTorch sees them (torch.library): shapes for fake tensors and torch.compile, a kernel on CUDA.

Each function's body is what runs where there is no kernel: the reference. Triton is imported with the first call on a
CUDA device.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.library import custom_op

from . import reference
from .launch_device import on_cuda


@custom_op("hvlite::modulated_norm", mutates_args=())
def modulated_norm(x: Tensor, shift: Tensor, scale: Tensor, eps: float) -> Tensor:
    """See `ops.modulated_norm`."""
    return reference.modulated_norm(x, shift, scale, eps)


@on_cuda(modulated_norm)
def _(x: Tensor, shift: Tensor, scale: Tensor, eps: float) -> Tensor:
    from .modulated_norm import modulated_norm as launch

    return launch(x, shift, scale, eps)


@modulated_norm.register_fake
def _(x: Tensor, shift: Tensor, scale: Tensor, eps: float) -> Tensor:
    return torch.empty(x.shape, dtype=x.dtype, device=x.device)


@custom_op("hvlite::modulated_norm_codes", mutates_args=())
def modulated_norm_codes(
    x: Tensor, shift: Tensor, scale: Tensor, eps: float, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """See `ops.modulated_norm_codes`."""
    return reference.modulated_norm_codes(x, shift, scale, eps, dtype)


@on_cuda(modulated_norm_codes)
def _(x: Tensor, shift: Tensor, scale: Tensor, eps: float, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    from .modulated_norm import modulated_norm_codes as launch

    return launch(x, shift, scale, eps, dtype)


@modulated_norm_codes.register_fake
def _(x: Tensor, shift: Tensor, scale: Tensor, eps: float, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    return _codes_like(x, dtype)


@custom_op("hvlite::quantize_tokens", mutates_args=())
def quantize_tokens(x: Tensor, dtype: torch.dtype, gelu_from: int) -> tuple[Tensor, Tensor]:
    """See `ops.quantize_tokens`."""
    return reference.gelu_codes(x, dtype, gelu_from)


@on_cuda(quantize_tokens)
def _(x: Tensor, dtype: torch.dtype, gelu_from: int) -> tuple[Tensor, Tensor]:
    from .quantize_tokens import quantize_tokens as launch

    return launch(x, dtype, gelu_from)


@quantize_tokens.register_fake
def _(x: Tensor, dtype: torch.dtype, gelu_from: int) -> tuple[Tensor, Tensor]:
    return _codes_like(x, dtype)


@custom_op("hvlite::gelu_codes_", mutates_args=("x",))
def gelu_codes_(x: Tensor, dtype: torch.dtype, gelu_from: int) -> Tensor:
    """The codes go into the first bytes of each of x's rows; returns their scale."""
    codes, scale = reference.gelu_codes(x, dtype, gelu_from)
    x.view(dtype).narrow(-1, 0, x.shape[-1]).copy_(codes)
    return scale


@on_cuda(gelu_codes_)
def _(x: Tensor, dtype: torch.dtype, gelu_from: int) -> Tensor:
    from .quantize_tokens import gelu_codes_ as launch

    return launch(x, dtype, gelu_from)


@gelu_codes_.register_fake
def _(x: Tensor, dtype: torch.dtype, gelu_from: int) -> Tensor:
    return torch.empty(x.shape[:-1], dtype=torch.float32, device=x.device)


@custom_op("hvlite::gelu_tanh", mutates_args=())
def gelu_tanh(x: Tensor) -> Tensor:
    """See `ops.gelu_tanh`."""
    return reference.gelu_tanh(x).contiguous()


@on_cuda(gelu_tanh)
def _(x: Tensor) -> Tensor:
    from .gelu_tanh import gelu_tanh as launch

    return launch(x)


@gelu_tanh.register_fake
def _(x: Tensor) -> Tensor:
    return torch.empty(x.shape, dtype=x.dtype, device=x.device)


@custom_op("hvlite::gelu_tanh_", mutates_args=("x",))
def gelu_tanh_(x: Tensor) -> None:
    """See `ops.gelu_tanh_`."""
    reference.gelu_tanh_(x)


@on_cuda(gelu_tanh_)
def _(x: Tensor) -> None:
    from .gelu_tanh import gelu_tanh_ as launch

    launch(x)


@custom_op("hvlite::gated_residual_", mutates_args=("x",))
def gated_residual_(x: Tensor, branch: Tensor, gate: Tensor) -> None:
    """See `ops.gated_residual_`."""
    reference.gated_residual_(x, branch, gate)


@on_cuda(gated_residual_)
def _(x: Tensor, branch: Tensor, gate: Tensor) -> None:
    from .gated_residual import gated_residual_ as launch

    launch(x, branch, gate)


@custom_op("hvlite::codes_mm_", mutates_args=("out",))
def codes_mm_(
    out: Tensor,
    x: Tensor,
    x_scale: Tensor | None,
    weight: Tensor,
    weight_scale: Tensor,
    bias: Tensor | None,
    gate: Tensor | None,
    gelu: bool,
) -> None:
    """out = x @ weight.T with scales and bias, or its GELU, or out += gate * that; x_scale None: x is 16-bit."""
    reference.codes_mm_(out, x, x_scale, weight, weight_scale, bias, gate, gelu)


@on_cuda(codes_mm_)
def _(
    out: Tensor,
    x: Tensor,
    x_scale: Tensor | None,
    weight: Tensor,
    weight_scale: Tensor,
    bias: Tensor | None,
    gate: Tensor | None,
    gelu: bool,
) -> None:
    """See `ops.codes_mm_`."""
    from .mm_output import MmOutput
    from .scaled_mm import scaled_mm
    from .w8a16_mm import w8a16_mm

    output = MmOutput.of(out, gate, gelu=gelu)
    if x_scale is None:
        w8a16_mm(x, weight, weight_scale, bias, output)
    else:
        scaled_mm(x, x_scale, weight, weight_scale, bias, output)


@custom_op("hvlite::group_moments", mutates_args=())
def group_moments(x: Tensor, groups: int) -> tuple[Tensor, Tensor]:
    """See `ops.group_moments`."""
    return reference.group_moments(x, groups)


@on_cuda(group_moments)
def _(x: Tensor, groups: int) -> tuple[Tensor, Tensor]:
    from .group_norm import group_moments as launch

    return launch(x, groups)


@group_moments.register_fake
def _(x: Tensor, groups: int) -> tuple[Tensor, Tensor]:
    mean, variance = (torch.empty(x.shape[0], groups, dtype=torch.float32, device=x.device) for _ in range(2))
    return mean, variance


@custom_op("hvlite::scale_shift_silu", mutates_args=())
def scale_shift_silu(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """See `ops.scale_shift_silu`."""
    return reference.scale_shift_silu(x, scale, shift).contiguous()


@on_cuda(scale_shift_silu)
def _(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    from .group_norm import scale_shift_silu as launch

    return launch(x, scale, shift)


@scale_shift_silu.register_fake
def _(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    return torch.empty(x.shape, dtype=x.dtype, device=x.device)


def _codes_like(x: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    return (
        torch.empty(x.shape, dtype=dtype, device=x.device),
        torch.empty(x.shape[:-1], dtype=torch.float32, device=x.device),
    )
