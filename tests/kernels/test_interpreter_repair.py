"""The repaired interpreter against tables of every representable value, made here without torch's casts."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import triton
import triton.language as tl
from numpy.typing import NDArray
from torch import Tensor

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="kernels run on the card")

Floats = NDArray[np.float64]


@triton.jit
def _cast_kernel(x, y, n, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(y + i, tl.load(x + i, mask=i < n).to(y.dtype.element_ty), mask=i < n)


@triton.jit
def _truncate_kernel(x, y, BLOCK: tl.constexpr):
    i = tl.arange(0, BLOCK)
    tl.store(y + i, tl.load(x + i).to(tl.bfloat16, fp_downcast_rounding="rtz"))


@triton.jit
def _add_kernel(x, y, out, BLOCK: tl.constexpr):
    i = tl.arange(0, BLOCK)
    tl.store(out + i, tl.load(x + i) + tl.load(y + i))


@triton.jit
def _less_kernel(x, y, out, BLOCK: tl.constexpr):
    i = tl.arange(0, BLOCK)
    tl.store(out + i, (tl.load(x + i) < tl.load(y + i)).to(tl.int8))


@triton.jit
def _sum_kernel(x, out, BLOCK: tl.constexpr):
    tl.store(out, tl.sum(tl.load(x + tl.arange(0, BLOCK)), 0).to(out.dtype.element_ty))


@triton.jit
def _dot_kernel(a, b, out, M: tl.constexpr, N: tl.constexpr, K: tl.constexpr, TYPE: tl.constexpr):
    m, n, k = tl.arange(0, M), tl.arange(0, N), tl.arange(0, K)
    left = tl.load(a + m[:, None] * K + k[None, :])
    right = tl.load(b + k[:, None] * N + n[None, :])
    tl.store(out + m[:, None] * N + n[None, :], tl.dot(left, right, out_dtype=TYPE))


@triton.jit
def _loop_kernel(x, out, n, BLOCK: tl.constexpr):
    total = tl.zeros([BLOCK], tl.float32)
    for start in range(0, n, BLOCK):
        i = start + tl.arange(0, BLOCK)
        total += tl.load(x + i, mask=i < n, other=0.0)
    tl.store(out, tl.sum(total, 0))


def cast(x: Tensor, dtype: torch.dtype) -> Tensor:
    y = torch.empty(x.shape, dtype=dtype)
    _cast_kernel[(triton.cdiv(x.numel(), 4096),)](x, y, x.numel(), BLOCK=4096)
    return y


def dot(a: Tensor, b: Tensor, out: torch.dtype, kind: tl.dtype) -> Tensor:
    made = torch.empty(a.shape[0], b.shape[1], dtype=out)
    _dot_kernel[(1,)](a, b, made, M=a.shape[0], N=b.shape[1], K=a.shape[1], TYPE=kind)
    return made


def e4m3_values() -> Floats:
    """The values of the 127 codes that are neither negative nor NaN, by the format's definition."""
    codes = np.arange(0x7F)
    exponent, mantissa = codes >> 3, codes & 7
    return np.where(exponent == 0, mantissa / 8 * 2.0**-6, (1 + mantissa / 8) * 2.0 ** (exponent - 7))


def bf16_values() -> Floats:
    """The values of the finite codes that are not negative: the upper halves of fp32."""
    return (np.arange(0x7F80, dtype=np.uint32) << 16).view(np.float32).astype(np.float64)


def nearest_even(x: Floats, values: Floats) -> Floats:
    """x -> the nearest of `values` (sorted, codes in order), the even code of two as near; what is larger: the last."""
    upper = np.clip(np.searchsorted(values, x), 1, len(values) - 1)
    lower = upper - 1
    to_lower, to_upper = x - values[lower], values[upper] - x
    take_upper = (to_upper < to_lower) | ((to_upper == to_lower) & (upper % 2 == 0))
    return values[np.where(take_upper, upper, lower)]


def awkward(values: Floats) -> Tensor:
    """Every value, every halfway case and its two neighbours in fp32, and all of them negated."""
    halfway = ((values[1:] + values[:-1]) / 2).astype(np.float32)
    below, above = np.nextafter(halfway, np.float32(0)), np.nextafter(halfway, np.float32(np.inf))
    x = np.concatenate([values.astype(np.float32), halfway, below, above])
    return torch.from_numpy(np.concatenate([x, -x]))


@pytest.mark.parametrize(
    ("dtype", "values"), [(torch.float8_e4m3fn, e4m3_values()), (torch.bfloat16, bf16_values())], ids=["e4m3", "bf16"]
)
def test_casts_round_to_nearest_even(dtype: torch.dtype, values: Floats) -> None:
    x = awkward(values)
    rounded = cast(x, dtype).double().numpy()
    expected = nearest_even(x.abs().double().numpy(), values) * np.sign(x.numpy())
    np.testing.assert_array_equal(rounded, expected)


def test_all_codes_survive_a_round_trip() -> None:
    e4m3 = torch.arange(256, dtype=torch.uint8)
    wide = cast(e4m3.view(torch.float8_e4m3fn), torch.float32)
    number = ~torch.isnan(wide)
    assert number.sum() == 254
    np.testing.assert_array_equal(wide[:127].double().numpy(), e4m3_values())
    assert torch.equal(cast(wide, torch.float8_e4m3fn).view(torch.uint8)[number], e4m3[number])

    bf16 = torch.arange(65536, dtype=torch.int32).to(torch.uint16)
    wide = cast(bf16.view(torch.bfloat16), torch.float32)
    number = ~torch.isnan(wide)
    assert number.sum() == 65536 - 2 * 127
    assert torch.equal(wide.view(torch.int32)[number], (torch.arange(65536, dtype=torch.int32) << 16)[number])
    assert torch.equal(cast(wide, torch.bfloat16).view(torch.int16)[number], bf16.view(torch.int16)[number])


def test_casts_to_e4m3_saturate_and_keep_nan() -> None:
    x = torch.tensor([448.0, 464.0, 465.0, 1e30, float("inf"), -float("inf"), float("nan"), 2.0**-10, -(2.0**-11)])
    y = cast(x, torch.float8_e4m3fn).float()
    assert y[:6].tolist() == [448, 448, 448, 448, 448, -448]
    assert torch.isnan(y[6])
    assert y[7:].tolist() == [0, 0]


def test_rounding_towards_zero_when_asked() -> None:
    x = torch.randn(64) * torch.logspace(-38, 38, 64)
    y = torch.empty(64, dtype=torch.bfloat16)
    _truncate_kernel[(1,)](x, y, BLOCK=64)
    assert torch.equal(y.float().view(torch.int32), x.view(torch.int32) & -65536)


def test_integers_to_bf16_and_back() -> None:
    x = torch.arange(-128, 128, dtype=torch.int8)
    assert torch.equal(cast(x, torch.bfloat16), x.bfloat16())
    assert torch.equal(cast(x.bfloat16(), torch.int8), x)


def test_bf16_arithmetic_is_on_values() -> None:
    x, y = torch.randn(64).bfloat16(), torch.randn(64).bfloat16()
    out, less = torch.empty(64, dtype=torch.bfloat16), torch.empty(64, dtype=torch.int8)
    _add_kernel[(1,)](x, y, out, BLOCK=64)
    _less_kernel[(1,)](x, y, less, BLOCK=64)
    assert torch.equal(out, x + y)
    assert torch.equal(less.bool(), x < y)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float8_e4m3fn])
def test_a_sum_in_a_narrow_type_is_refused(dtype: torch.dtype) -> None:
    with pytest.raises(Exception, match="convert to fp32"):
        _sum_kernel[(1,)](torch.zeros(64).to(dtype), torch.empty(1), BLOCK=64)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float8_e4m3fn, torch.float32])
def test_dot_matches_fp64(dtype: torch.dtype) -> None:
    a, b = torch.randn(32, 64).to(dtype), torch.randn(64, 16).to(dtype)
    made = dot(a, b, torch.float32, tl.float32)
    torch.testing.assert_close(made.double(), a.double() @ b.double(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("depth", [64, 2048])
def test_int8_dot_is_exact(depth: int) -> None:
    a, b = (torch.randint(-128, 128, shape, dtype=torch.int8) for shape in ((16, depth), (depth, 16)))
    a[0], b[:, 0] = -128, -128
    made = dot(a, b, torch.int32, tl.int32)
    assert torch.equal(made.long(), a.long() @ b.long())


def test_an_fp16_accumulator_rounds_as_it_goes() -> None:
    """2048 + 1 is no fp16: added one instruction at a time it is lost, added at the end it is not."""
    a, b = torch.zeros(16, 64, dtype=torch.float16), torch.ones(64, 16, dtype=torch.float16)
    a[:, 0], a[:, 16], a[:, 32] = 2048, 1, 1
    assert dot(a, b, torch.float16, tl.float16).unique().tolist() == [2048]
    assert dot(a, b, torch.float32, tl.float32).unique().tolist() == [2050]


def test_an_fp16_accumulator_overflows() -> None:
    a, b = torch.full((16, 32), 300.0), torch.full((32, 16), 300.0)
    assert torch.isinf(dot(a.half(), b.half(), torch.float16, tl.float16)).all()


def test_a_loop_over_a_runtime_bound() -> None:
    x, out = torch.randn(1000), torch.empty(1)
    _loop_kernel[(1,)](x, out, 1000, BLOCK=128)
    torch.testing.assert_close(out[0], x.sum())
