"""Linear layers: in row slices, and with quantized weights held as plain tensors (codes and scales)."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...kernels import ops
from ...quantize.format import HvliteSource

Arithmetic = Literal["dequantize", "w8a8"]


def linear_rows(layer: nn.Module, x: Tensor, start: int, end: int) -> Tensor:
    """Output features `start` to `end` of a linear layer: x [..., in] -> [..., end - start]. Row slices are views."""
    if isinstance(layer, QuantLinear):
        return layer.rows(x, start, end)
    if not isinstance(layer, nn.Linear):
        raise TypeError(f"{type(layer).__name__} is not a linear layer")
    return F.linear(x, layer.weight[start:end].to(x.dtype), layer.bias[start:end].to(x.dtype))


class StoredLinear(nn.Linear):
    """A linear layer whose weights stay in the dtype they are stored in and are widened to x's for every call."""

    def forward(self, x: Tensor) -> Tensor:
        return linear_rows(self, x, 0, self.out_features)


class QuantLinear(nn.Module):
    """x @ W.T + bias with W as int8 or e4m3fn codes [out, in] and one fp32 scale a row.

    dequantize: the weight is widened to x's dtype for every call; x stays as it is.
    w8a8: x is quantized too, one scale a token; products are summed in int32 (int8) or fp32 (fp8), as the kernels do.
    """

    weight: Tensor
    weight_scale: Tensor

    def __init__(
        self, weight: Tensor, weight_scale: Tensor, bias: nn.Parameter | None, arithmetic: Arithmetic = "dequantize"
    ) -> None:
        super().__init__()
        self.register_buffer("weight", weight)
        self.register_buffer("weight_scale", weight_scale)
        self.bias = bias
        self.arithmetic = arithmetic
        self.out_features, self.in_features = weight.shape

    def forward(self, x: Tensor) -> Tensor:
        return self.rows(x, 0, self.out_features)

    def rows(self, x: Tensor, start: int, end: int) -> Tensor:
        """Output features `start` to `end`: x [..., in] -> [..., end - start]."""
        weight, scale = self.weight[start:end], self.weight_scale[start:end]
        bias = None if self.bias is None else self.bias[start:end].to(x.dtype)
        if self.arithmetic == "dequantize":
            return F.linear(x, ops.dequantize_rows(weight, scale, x.dtype), bias)
        codes, token_scale = ops.quantize_tokens(x.reshape(-1, self.in_features), weight.dtype)
        multiply = ops.int8_mm if weight.dtype == torch.int8 else ops.fp8_mm
        out = multiply(codes, token_scale, weight, scale, bias)
        return out.to(x.dtype).view(*x.shape[:-1], end - start)


class Nf4Linear(nn.Module):
    """x @ W.T with W as NF4 codes, widened to x's dtype for every call: 4.5 bits a weight stay in memory."""

    packed: Tensor
    absmax: Tensor
    values: Tensor

    def __init__(self, packed: Tensor, absmax: Tensor, values: Tensor, shape: tuple[int, int]) -> None:
        super().__init__()
        self.register_buffer("packed", packed)
        self.register_buffer("absmax", absmax)
        self.register_buffer("values", values)
        self.shape = shape

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, ops.dequantize_nf4(self.packed, self.absmax, self.values, self.shape, x.dtype))


def bind_quantized(
    model: nn.Module, source: HvliteSource, device: torch.device, arithmetic: Arithmetic = "dequantize"
) -> set[str]:
    """Put a layer of the right kind where `source` has a quantized weight; returns the names of these weights.

    Biases are left to the caller, as parameters of the new layers. int4 is not held in memory: it is left out here.
    """
    done = set()
    for name in source.names():
        scheme = source.scheme(name)
        module = name.removesuffix(".weight")
        if scheme.name in ("fp8", "int8"):
            weight, scale = source.read_scaled(name)
            bias = dict(model.get_submodule(module).named_parameters()).get("bias")
            layer: nn.Module = QuantLinear(weight.to(device), scale.to(device), bias, arithmetic)
        elif scheme.name == "nf4":
            packed, absmax, values = source.read_nf4(name)
            rows, columns = source.info(name).shape
            layer = Nf4Linear(packed.to(device), absmax.to(device), values.to(device), (rows, columns))
        else:
            continue
        model.set_submodule(module, layer)
        done.add(name)
    return done
