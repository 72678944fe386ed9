"""What a case of the kernel benchmark is, and the operations around the linear layers and of the VAE as cases."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from ..kernels import ops, reference

Work = Callable[[], object]
Codes = tuple[Tensor, Tensor]


@dataclass(frozen=True, kw_only=True)
class KernelCase:
    """An operation on inputs that are there already.

    `error`: its distance from the truth, relative, and `limit` the most it may be. `moved_bytes`: what it must read and
    write at least (0: not what bounds it); `flops`: twice its multiply-accumulates. `baselines`: the same work, made as
    one would without us.
    """

    name: str
    work: Work
    error: Callable[[], float]
    limit: float
    moved_bytes: int = 0
    flops: int = 0
    baselines: dict[str, Work] = field(default_factory=dict)


@dataclass(frozen=True)
class Size:
    """How much: tokens of the whole video, tokens of a chunk (what a product sees), the model's width, a VAE tile."""

    tokens: int
    chunk: int
    hidden: int
    tile: tuple[int, int, int, int]


CUDA_SIZE = Size(tokens=118_800, chunk=8192, hidden=3072, tile=(128, 65, 256, 256))
CPU_SIZE = Size(tokens=300, chunk=100, hidden=192, tile=(8, 3, 16, 16))
CaseMaker = Callable[[torch.device, Size], Iterator[KernelCase]]


def relative(found: Tensor, wanted: Tensor) -> float:
    """L2 distance over L2 norm."""
    return float((found.double() - wanted.double()).norm() / wanted.double().norm())


def row_cases(device: torch.device, size: Size) -> Iterator[KernelCase]:
    """Norm, gate and GELU over all tokens, with and without codes."""
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    x = torch.randn(1, size.tokens, size.hidden, device=device, dtype=dtype)
    vectors = torch.randn(3, 1, size.hidden, device=device, dtype=dtype) * 0.1
    shift, scale, gate = vectors.unbind(0)
    few = x[:, :7]
    nbytes = x.numel() * x.element_size()
    yield KernelCase(
        name="modulated_norm",
        work=lambda: ops.modulated_norm(x, shift, scale),
        error=lambda: relative(
            ops.modulated_norm(few, shift, scale), reference.modulated_norm(few, shift, scale, 1e-6)
        ),
        limit=0.01,
        moved_bytes=2 * nbytes,
        baselines={"eager": lambda: reference.modulated_norm(x, shift, scale, 1e-6)},
    )
    for codes in code_types(device):
        yield KernelCase(
            name=f"modulated_norm_codes {name_of(codes)}",
            work=partial(ops.modulated_norm_codes, x, shift, scale, codes),
            error=_error(
                partial(ops.modulated_norm_codes, few, shift, scale, codes),
                partial(reference.modulated_norm_codes, few, shift, scale, 1e-6, codes),
            ),
            limit=0.01,
            moved_bytes=nbytes + x.numel(),
            baselines={"eager": partial(reference.modulated_norm_codes, x, shift, scale, 1e-6, codes)},
        )
    branch = torch.randn_like(x)
    yield KernelCase(
        name="gated_residual_",
        work=lambda: ops.gated_residual_(x, branch, gate),
        error=lambda: relative(
            ops.gated_residual_(few.clone(), branch[:, :7], gate), reference.gated_residual(few, branch[:, :7], gate)
        ),
        limit=0.01,
        moved_bytes=3 * nbytes,
        baselines={"eager": lambda: reference.gated_residual_(x, branch, gate)},
    )


def gelu_cases(device: torch.device, size: Size) -> Iterator[KernelCase]:
    """The MLP's inner tokens."""
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    x = torch.randn(size.tokens, 4 * size.hidden, device=device, dtype=dtype)
    few, nbytes = x[:7].clone(), x.numel() * x.element_size()  # a copy: gelu_codes_ leaves codes where x was
    yield KernelCase(
        name="gelu_tanh",
        work=lambda: ops.gelu_tanh(x),
        error=lambda: relative(ops.gelu_tanh(few), reference.gelu_tanh(few)),
        limit=0.01,
        moved_bytes=2 * nbytes,
        baselines={"eager": lambda: reference.gelu_tanh(x)},
    )
    for codes in code_types(device):
        yield KernelCase(
            name=f"gelu_codes_ {name_of(codes)}",
            work=partial(ops.gelu_codes_, x, codes),
            error=_error(partial(_gelu_codes_of_a_copy, few, codes), partial(reference.gelu_codes, few, codes, 0)),
            limit=0.01,
            moved_bytes=nbytes + x.numel(),
            baselines={"eager": partial(_eager_gelu_codes, x, codes)},
        )


def product_cases(device: torch.device, size: Size) -> Iterator[KernelCase]:
    """fc1 of a chunk: 8-bit products against bf16's, torch's own, and against themselves with decoded weights."""
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    x = torch.randn(size.chunk, size.hidden, device=device, dtype=dtype)
    weight = torch.randn(4 * size.hidden, size.hidden, device=device, dtype=dtype) * size.hidden**-0.5
    flops = 2 * x.numel() * weight.shape[0]
    plain: dict[str, Work] = {name_of(dtype): lambda: F.linear(x, weight)}
    for codes in code_types(device):
        a, b = reference.quantize_tokens(x, codes), reference.quantize_tokens(weight, codes)
        exact = reference.widen(a[0][:100]).double() @ reference.widen(b[0]).double().t()
        wanted = exact * a[1][:100, None] * b[1]
        multiply = ops.int8_mm if codes == torch.int8 else ops.fp8_mm
        out = torch.empty(size.chunk, weight.shape[0], device=device, dtype=dtype)
        for name, work in (
            ("", partial(multiply, *a, *b, None, dtype)),
            (" own kernel", partial(ops.codes_mm_, out, *a, *b)),
            (" decoded", partial(ops.w8a16_mm, x, *b)),
        ):
            yield KernelCase(
                name=f"{'int8' if codes == torch.int8 else 'fp8'}_mm{name}",
                work=work,
                error=partial(_product_error, work, wanted),
                limit=0.08 if name == " decoded" else 0.01,  # decoded: of the activations that were not quantized
                flops=flops,
                baselines={**plain, **_torch_products(a, b, dtype)},
            )


def _product_error(work: Callable[[], Tensor], wanted: Tensor) -> float:
    return relative(work()[: len(wanted)], wanted)


def _error(ours: Callable[[], Codes], truth: Callable[[], Codes]) -> Callable[[], float]:
    return lambda: code_error(ours(), truth())


def _gelu_codes_of_a_copy(x: Tensor, codes: torch.dtype) -> Codes:
    return ops.gelu_codes_(x.clone(), codes)


def _eager_gelu_codes(x: Tensor, codes: torch.dtype) -> Codes:
    return reference.quantize_tokens(reference.gelu_tanh(x), codes)


def _torch_products(a: tuple[Tensor, Tensor], b: tuple[Tensor, Tensor], dtype: torch.dtype) -> dict[str, Work]:
    """torch's product of the same codes: `_int_mm` with its rescaling, `_scaled_mm` with row scales."""
    if a[0].dtype == torch.int8:
        return {"int_mm": lambda: (torch._int_mm(a[0], b[0].t()) * a[1][:, None] * b[1]).to(dtype)}
    if dtype != torch.bfloat16:
        return {}
    scales = (a[1][:, None], b[1][None])
    return {"scaled_mm": lambda: torch._scaled_mm(a[0], b[0].t(), *scales, out_dtype=dtype, use_fast_accum=True)}


def vae_cases(device: torch.device, size: Size) -> Iterator[KernelCase]:
    """The norm before the decoder's last convolutions."""
    dtype = torch.float16 if device.type == "cuda" else torch.float32
    x = torch.randn(1, *size.tile, device=device, dtype=dtype)
    weight, bias = torch.randn(2, size.tile[0], device=device, dtype=dtype).unbind(0)
    groups = min(32, size.tile[0] // 2)
    yield KernelCase(
        name="group_norm_silu",
        work=lambda: ops.group_norm_silu(x, weight, bias, groups, 1e-6),
        error=lambda: relative(
            ops.group_norm_silu(x[:, :, :1], weight, bias, groups, 1e-6),
            reference.group_norm_silu(x[:, :, :1].float(), weight.float(), bias.float(), groups, 1e-6),
        ),
        limit=0.01,
        moved_bytes=3 * x.numel() * x.element_size(),
        baselines={"eager": lambda: reference.group_norm_silu(x, weight, bias, groups, 1e-6)},
    )


def code_types(device: torch.device) -> tuple[torch.dtype, ...]:
    """The codes that the device's kernels know: fp8 needs sm_89."""
    old = device.type == "cuda" and torch.cuda.get_device_capability(device) < (8, 9)
    return (torch.int8,) if old else (torch.int8, torch.float8_e4m3fn)


def code_error(found: Codes, wanted: Codes) -> float:
    """Relative distance of decoded codes."""
    return relative(*(reference.widen(codes) * scale[..., None] for codes, scale in (found, wanted)))


def name_of(dtype: torch.dtype) -> str:
    """`float8_e4m3fn`."""
    return str(dtype).removeprefix("torch.")


CASES: list[CaseMaker] = [row_cases, gelu_cases, product_cases, vae_cases]
