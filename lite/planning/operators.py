"""What every operation of the model holds in memory, in bytes (arithmetic only).

A `Cost` counts what an operation allocates beside its inputs. The entries follow `kernels/reference.py` line by line;
tests compare each with PyTorch's own accounting at real shapes. Names: n tokens, c channels, w bytes of an activation
element (2: bf16 or fp16, 4: fp32). Where w is 4 a cast to fp32 makes no copy.
"""

from __future__ import annotations

from dataclasses import dataclass

FP32 = 4


@dataclass(frozen=True)
class Cost:
    """`out`: bytes of the result. `peak`: bytes held at most while the operation runs, its result among them."""

    out: int
    peak: int


def modulated_norm(n: int, c: int, w: int) -> Cost:
    """fp32 copy and normalised fp32 tensor; then normalised, modulated and the result in the activation's type."""
    wide, narrow = _casts(w)
    vectors = 3 * FP32 * c  # shift, scale and 1 + scale in fp32
    statistics = 2 * FP32 * n
    return Cost(w * n * c, max((wide + FP32) * n * c + statistics, (2 * FP32 + narrow) * n * c + vectors))


def layer_norm(n: int, c: int, w: int) -> Cost:
    """The affine norm of the refiner: one operator of PyTorch, statistics beside its result."""
    return Cost(w * n * c, w * n * c + 2 * w * n)


def rms_norm(n: int, c: int, heads: int, w: int) -> Cost:
    """The fp32 copy, its square or its product, one fp32 value for each head."""
    return Cost(w * n * c, 2 * FP32 * n * c + FP32 * n * heads)


def apply_rope(n: int, c: int, w: int) -> Cost:
    """The fp32 copy, one finished half, and two products with their sum (each half the size in fp32)."""
    wide, _ = _casts(w)
    return Cost(w * n * c, (wide + 2 * FP32) * n * c)


def joint_attention(n: int, c: int, heads: int, w: int) -> Cost:
    """Flash attention: the result and an fp32 log-sum for each token and head; scores never leave the chip."""
    out = w * n * c
    return Cost(out, out + FP32 * n * heads)


def gelu_tanh(n: int, c: int, w: int) -> Cost:
    """Into a new tensor (`gelu_tanh_` takes nothing)."""
    return Cost(w * n * c, w * n * c)


def linear(n: int, rows: int, columns: int, w: int, scheme: str) -> Cost:
    """`rows` output features of a weight in `scheme`: a quantized weight is widened for every call."""
    out = w * n * rows
    widened = dequantized(rows * columns, w, scheme)
    return Cost(out, max(widened.peak, widened.out + out))


def dequantized(count: int, w: int, scheme: str) -> Cost:
    """A weight of `count` elements as the multiplication takes it: nothing where it is stored that way."""
    if scheme in ("fp8", "int8"):
        # fp32 values, scaled in place, then cast. fp8 on a CPU (w 4) goes through an int32 index into a table.
        index = FP32 if w == FP32 and scheme == "fp8" else 0
        return Cost(w * count, (FP32 + max(index, _casts(w)[1])) * count)
    if scheme == "nf4":
        # codes (1), their int32 index (4), values (4), values times absmax (4)
        return Cost(w * count, 13 * count)
    stored = {"bf16": 2, "fp16": 2, "fp32": 4}[scheme]
    return Cost(0, 0) if stored == w else Cost(w * count, w * count)


def _casts(w: int) -> tuple[int, int]:
    """Bytes an element of a copy in fp32, and of a copy back: none where the type is fp32 already."""
    return (0, 0) if w == FP32 else (FP32, w)
