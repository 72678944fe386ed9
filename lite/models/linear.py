"""Linear layers: in row slices, and with quantized weights held as plain tensors (codes and scales)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...kernels import ops
from ...quantize.format import HvliteSource
from ..arithmetic import DEQUANTIZE, Arithmetic, LinearArithmetic
from .blocks import Modulation


@dataclass(frozen=True)
class TokenCodes:
    """Tokens [..., C] as 8-bit codes with one scale each [...], and the dtype that products of them come back in."""

    codes: Tensor
    scale: Tensor
    dtype: torch.dtype

    @classmethod
    def of(cls, x: Tensor, codes: torch.dtype) -> TokenCodes:
        """x [..., C] quantized."""
        return cls(*ops.quantize_tokens(x, codes), x.dtype)


Tokens = Tensor | TokenCodes


def normed_for(layer: nn.Module, x: Tensor, modulation: Modulation) -> Tokens:
    """The modulated norm of x [B, S, C] as `layer` takes it: quantized in the same pass where it multiplies codes."""
    codes = _codes_of(layer)
    if codes is None:
        return ops.modulated_norm(x, modulation.shift, modulation.scale)
    return TokenCodes(*ops.modulated_norm_codes(x, modulation.shift, modulation.scale, codes), x.dtype)


def gelu_for(layer: nn.Module, x: Tensor, gelu_from: int = 0) -> Tokens:
    """x [..., C] whose channels from `gelu_from` on went through a GELU, as `layer` takes it. x may be overwritten."""
    codes = _codes_of(layer)
    if codes is not None:
        return TokenCodes(*ops.gelu_codes_(x, codes, gelu_from), x.dtype)
    ops.gelu_tanh_(x[..., gelu_from:])
    return x


def linear_rows(layer: nn.Module, x: Tokens, start: int = 0, end: int | None = None) -> Tensor:
    """Output features `start` to `end` (None: the last) of a linear layer: x [..., in] -> [..., end - start].

    Row slices are views.
    """
    if isinstance(layer, QuantLinear):
        return layer.rows(x, start, end)
    layer, x = _plain(layer, x)
    return F.linear(x, layer.weight[start:end].to(x.dtype), layer.bias[start:end].to(x.dtype))


def linear_rows_into(out: Tensor, layer: nn.Module, x: Tokens, start: int) -> None:
    """Output features from `start` on, written to `out`, which may be a view."""
    if isinstance(layer, QuantLinear):
        layer.rows_into(out, x, start)
    else:
        out.copy_(linear_rows(layer, x, start))


def add_linear_(x: Tensor, layer: nn.Module, tokens: Tokens, gate: Tensor) -> None:
    """x += gate * layer(tokens), in place. x [B, S, out]; tokens [B, S, in]; gate [B, out]."""
    if isinstance(layer, QuantLinear):
        layer.rows_into(x, tokens, gate=gate)
    else:
        layer, tokens = _plain(layer, tokens)
        ops.gated_residual_(x, layer(tokens), gate)


def _codes_of(layer: nn.Module) -> torch.dtype | None:
    """The dtype of the codes that a layer multiplies; None for one that takes activations."""
    return layer.weight.dtype if isinstance(layer, QuantLinear) and layer.arithmetic == "w8a8" else None


def _plain(layer: nn.Module, x: Tokens) -> tuple[nn.Linear, Tensor]:
    if not isinstance(layer, nn.Linear) or isinstance(x, TokenCodes):
        raise TypeError(f"{type(layer).__name__} does not multiply {type(x).__name__}")
    return layer, x


class StoredLinear(nn.Linear):
    """A linear layer whose weights stay in the dtype they are stored in and are widened to x's for every call."""

    def forward(self, x: Tensor) -> Tensor:
        return linear_rows(self, x)


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
        return self.rows(x)

    def rows(self, x: Tokens, start: int = 0, end: int | None = None) -> Tensor:
        """Output features `start` to `end`: x [..., in] -> [..., end - start]."""
        part = self._part(start, end)
        if isinstance(x, Tensor) and self.arithmetic == "dequantize":
            return ops.w8a16_mm(x, *part)
        x = TokenCodes.of(x, self.weight.dtype) if isinstance(x, Tensor) else x
        multiply = ops.int8_mm if self.weight.dtype == torch.int8 else ops.fp8_mm
        out = multiply(x.codes.flatten(0, -2), x.scale.flatten(), *part, x.dtype)
        return out.view(*x.codes.shape[:-1], -1)

    def rows_into(self, out: Tensor, x: Tokens, start: int = 0, gate: Tensor | None = None) -> None:
        """The rows from `start` on, written to `out`, or added: out += gate * rows, with a gate [B, rows]."""
        part = self._part(start, None)
        if isinstance(x, Tensor) and self.arithmetic == "dequantize":
            ops.codes_mm_(out, x.flatten(0, -2), None, *part, gate)
        else:
            x = TokenCodes.of(x, self.weight.dtype) if isinstance(x, Tensor) else x
            ops.codes_mm_(out, x.codes.flatten(0, -2), x.scale.flatten(), *part, gate)

    def _part(self, start: int, end: int | None) -> tuple[Tensor, Tensor, Tensor | None]:
        bias = None if self.bias is None else self.bias[start:end]
        return self.weight[start:end], self.weight_scale[start:end], bias


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
    model: nn.Module, source: HvliteSource, device: torch.device, arithmetic: LinearArithmetic = DEQUANTIZE
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
            layer: nn.Module = QuantLinear(weight.to(device), scale.to(device), bias, arithmetic.of(weight.dtype))
        elif scheme.name == "nf4":
            packed, absmax, values = source.read_nf4(name)
            rows, columns = source.info(name).shape
            layer = Nf4Linear(packed.to(device), absmax.to(device), values.to(device), (rows, columns))
        else:
            continue
        model.set_submodule(module, layer)
        done.add(name)
    return done
