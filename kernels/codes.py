"""Parts of kernels that make and read 8-bit codes, and the GELU: jit functions without a launcher of their own."""

from __future__ import annotations

import triton
import triton.language as tl

LEAST_NORMAL = tl.constexpr(1.1754943508222875e-38)
TWO_TO_120 = tl.constexpr(1.329227995784916e36)  # 2.0 ** 120
ROUNDER = tl.constexpr(12582912.0)  # 1.5 * 2**23: a float of this size has no fraction, so adding it rounds
GELU_LINEAR = tl.constexpr(-2.302208198144325)  # -2 * sqrt(2 / pi) * log2(e)
GELU_CUBIC = tl.constexpr(-0.10294324)  # 0.044715 times that


@triton.jit
def magnitude_bits(x):
    """|x| of fp32 as integers: they order as the values do, and NaN is above all, so a maximum does not lose it."""
    return x.to(tl.int32, bitcast=True) & 0x7FFFFFFF


@triton.jit
def scale_of(bits, LARGEST: tl.constexpr):
    """The scale of a row whose largest `magnitude_bits` are given; a row of zeros gets 1."""
    scale = tl.div_rn(bits.to(tl.float32, bitcast=True), LARGEST)
    return tl.where(scale < LEAST_NORMAL, 1.0, scale)


@triton.jit
def encode(x, inverse, LARGEST: tl.constexpr, dtype: tl.constexpr):
    """fp32 -> int8 codes (half to even) or e4m3 codes (the cast rounds), x times the inverse of its scale."""
    scaled = tl.minimum(tl.maximum(x * inverse, -LARGEST), LARGEST)
    if dtype == tl.int8:
        scaled = (scaled + ROUNDER) - ROUNDER
    return scaled.to(dtype)


@triton.jit
def gelu_tanh(x):
    """x * sigmoid(2 u) = x / 2 * (1 + tanh(u)), u = sqrt(2 / pi) * (x + 0.044715 x**3), in fp32."""
    return x / (1.0 + tl.math.exp2(x * (GELU_LINEAR + GELU_CUBIC * x * x)))


@triton.jit
def decode_e4m3(codes, dtype: tl.constexpr):
    """e4m3fn codes as uint8 -> their values in fp16 or bf16, exact, on cards without fp8.

    Exponent and mantissa move into the places of fp32's, which makes them 2**-120 of their value; subnormals too.
    """
    bits = codes.to(tl.int32)
    bits = ((bits & 0x80) << 24) | ((bits & 0x7F) << 20)
    return (bits.to(tl.float32, bitcast=True) * TWO_TO_120).to(dtype)
