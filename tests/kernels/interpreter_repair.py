"""Makes Triton's interpreter compute bf16 and fp8 as the cards do; triton 3.6 to 3.9 are silently wrong there.

What is wrong, and repaired by `repair_interpreter`:
- arithmetic and products of bf16 work on the bit patterns as if they were integers;
- casts to bf16 truncate, casts to fp8 lose the carry of the mantissa: both must round to nearest, ties to even;
  casts to fp8 saturate on the cards (PTX `cvt.rn.satfinite`);
- casts between bf16 or fp8 and integers move bit patterns;
- products with an fp16 accumulator round once at the end; the tensor cores round after every 16 (fp8: 32) products;
- sums and scans of bf16 and fp8 add bit patterns: refused, because a kernel should not sum in these types anyway;
- triton 3.6 with numpy 2.4: a loop over a run-time bound fails, because arrays of one element are no index;
- overflow and division by zero raise numpy warnings, which tests turn into errors; cards give inf and NaN.
Not repaired: fp32 products are exact to fp32 (cards: TF32 unless told otherwise), and fp8 products are summed in full
fp32 (cards: sm_89 and sm_90 keep about 14 bits inside one instruction).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import triton.language as tl
from triton.runtime import interpreter
from triton.runtime.interpreter import TensorHandle

FLOATS = {
    tl.float8e4nv: torch.float8_e4m3fn,
    tl.float8e5: torch.float8_e5m2,
    tl.bfloat16: torch.bfloat16,
    tl.float16: torch.float16,
    tl.float32: torch.float32,
    tl.float64: torch.float64,
}
PACKED = (tl.float8e4nv, tl.float8e5, tl.bfloat16)  # numpy has no such type: the interpreter holds bit patterns
CODES = {1: torch.uint8, 2: torch.uint16, 4: torch.uint32, 8: torch.uint64}
LARGEST = {tl.float8e4nv: 448.0, tl.float8e5: 57344.0}
TOWARDS_ZERO = interpreter._ir.ROUNDING_MODE.RTZ
HALF_STEP = {8: 32, 16: 16}  # products per tensor-core instruction, by the operands' bits
EXACT_IN_FP32 = 1024  # 1024 products of int8 stay below 2**24, so fp32 adds them exactly


def widen(codes: Any, dtype: Any) -> Any:
    """Bit patterns of a bf16 or fp8 type -> the same values in fp32, exact. Any shape."""
    raw = torch.from_numpy(np.ascontiguousarray(codes))
    return raw.view(FLOATS[dtype]).float().numpy().reshape(np.shape(codes))


def narrow(values: Any, dtype: Any, rounding: Any = None) -> Any:
    """fp16, fp32 or fp64 values -> bit patterns of a type, rounded to nearest even or, if told, towards zero."""
    exact = torch.from_numpy(np.ascontiguousarray(values))
    if dtype in LARGEST:
        exact = exact.clamp(-LARGEST[dtype], LARGEST[dtype])
    rounded = exact.to(FLOATS[dtype])
    codes = rounded.view(CODES[rounded.element_size()]).numpy()
    if rounding == TOWARDS_ZERO:
        codes = codes - (rounded.double().abs() > exact.double().abs()).numpy().astype(codes.dtype)
    return codes.reshape(np.shape(values))


def repair_interpreter() -> None:
    """Replace the wrong pieces; once is enough, twice does no harm."""
    if hasattr(interpreter, "hvlite_repaired"):
        return
    builder = interpreter.InterpreterBuilder
    interpreter._convert_float = _repaired_convert(interpreter._convert_float)
    builder.cast_impl = _cast
    builder.binary_op = _on_values(builder.binary_op, 2)
    builder.create_fma = _on_values(builder.create_fma, 3)
    builder.create_clampf = _on_values(builder.create_clampf, 3)
    builder.create_dot = _dot
    interpreter._patch_lang_tensor = _with_index(interpreter._patch_lang_tensor)
    interpreter.ReduceScanOpInterface.check_tensor = _refuse_packed(interpreter.ReduceScanOpInterface.check_tensor)
    interpreter.GridExecutor.__call__ = _without_warnings(interpreter.GridExecutor.__call__)
    interpreter.hvlite_repaired = True


def _repaired_convert(convert: Callable[..., Any]) -> Callable[..., Any]:
    def repaired(data: Any, source: Any, target: Any, rounding: Any) -> Any:
        if source not in FLOATS or target not in FLOATS:
            return convert(data, source, target, rounding)
        return narrow(widen(data, source) if source in PACKED else data, target, rounding)

    return repaired


def _cast(builder: Any, source: Any, target: Any) -> Any:
    """Between any two types: numpy's own cast, with bf16 and fp8 widened before and rounded behind it."""
    old, new = source.dtype.scalar, target.scalar
    values = widen(source.data, old) if old in PACKED else source.data
    if new not in PACKED:
        return TensorHandle(values.astype(interpreter._get_np_dtype(target)), new)
    exact = values if np.issubdtype(values.dtype, np.floating) else values.astype(np.float64)
    return TensorHandle(narrow(exact, new), new)


def _on_values(operation: Callable[..., Any], operands: int) -> Callable[..., Any]:
    """An operation of the builder that sees fp32 values where it was given bf16 or fp8, its result rounded back."""

    def on_values(builder: Any, *arguments: Any) -> Any:
        dtype = arguments[operands - 1].dtype.scalar
        if dtype not in PACKED:
            return operation(builder, *arguments)
        wide = [TensorHandle(widen(each.data, dtype), tl.float32) for each in arguments[:operands]]
        result = operation(builder, *wide, *arguments[operands:]).data
        if result.dtype == np.bool_:  # of a comparison
            return TensorHandle(result, tl.int1)
        return TensorHandle(narrow(result, dtype), dtype)

    return on_values


def _dot(builder: Any, a: Any, b: Any, d: Any, *precision: Any) -> Any:
    """a @ b + d as the tensor cores sum it."""
    left, right = (widen(each.data, each.dtype.scalar) if each.dtype.scalar in PACKED else each.data for each in (a, b))
    target = d.dtype.scalar
    if target == tl.float16:
        step = HALF_STEP[a.dtype.scalar.primitive_bitwidth]
        return TensorHandle(half_accumulated(left, right, d.data, step), target)
    if np.issubdtype(left.dtype, np.integer):
        exact = np.float32 if left.shape[-1] <= EXACT_IN_FP32 else np.float64
        product = np.matmul(left.astype(exact), right.astype(exact)).astype(d.data.dtype)
    else:
        product = np.matmul(left, right, dtype=d.data.dtype)
    return TensorHandle(product + d.data, target)


def half_accumulated(left: Any, right: Any, start: Any, step: int) -> Any:
    """start + left @ right with the sum rounded to fp16 after every `step` products, as an fp16 accumulator does."""
    total = start.astype(np.float16)
    for k in range(0, left.shape[-1], step):
        part = np.matmul(left[..., k : k + step], right[..., k : k + step, :], dtype=np.float32)
        total = (total.astype(np.float32) + part).astype(np.float16)
    return total


def _with_index(patch: Callable[..., None]) -> Callable[..., None]:
    def with_index(tensor: Any, *scope: Any) -> None:
        patch(tensor, *scope)
        tensor.__index__ = lambda self: int(self.handle.data.item())

    return with_index


def _refuse_packed(check: Callable[..., None]) -> Callable[..., None]:
    def refuse_packed(reduction: Any, tensors: Any) -> None:
        check(reduction, tensors)
        for each in tensors:
            if each.dtype.scalar in PACKED:
                raise TypeError(f"a reduction in {each.dtype.scalar}: convert to fp32 before it")

    return refuse_packed


def _without_warnings(call: Callable[..., Any]) -> Callable[..., Any]:
    def without_warnings(executor: Any, *arguments: Any, **named: Any) -> Any:
        with np.errstate(over="ignore", under="ignore", divide="ignore", invalid="ignore"):
            return call(executor, *arguments, **named)

    return without_warnings
