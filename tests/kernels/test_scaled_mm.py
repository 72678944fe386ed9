"""Products of codes against fp64: tails in every direction, slices of a weight, each epilogue, huge offsets."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from hvlite.kernels import reference
from hvlite.kernels.mm_output import MmOutput
from hvlite.kernels.rows import Rows
from hvlite.kernels.scaled_mm import scaled_mm
from hvlite.kernels.w8a16_mm import w8a16_mm

CODES = [torch.int8, torch.float8_e4m3fn]
SHAPES = [(1, 1, 1), (7, 33, 5), (130, 100, 270), (92, 192, 48)]


def codes_of(device: torch.device, rows: int, columns: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Codes that use their whole range (e4m3's subnormals too) and scales of many sizes."""
    values = torch.randn(rows, columns, device=device) * torch.logspace(-3, 2, columns, device=device)
    return reference.quantize_tokens(values, dtype)


def exact(x: Tensor, x_scale: Tensor | None, weight: Tensor, weight_scale: Tensor, bias: Tensor | None) -> Tensor:
    product = x.double() @ weight.double().t() * weight_scale.double()
    product = product if x_scale is None else product * x_scale.double()[:, None]
    return product if bias is None else product + bias.double()


def gelu(x: Tensor) -> Tensor:
    return x * 0.5 * (1 + torch.tanh((2 / torch.pi) ** 0.5 * (x + 0.044715 * x**3)))


def close(found: Tensor, wanted: Tensor, unit: float, floor: float = 2e-6) -> None:
    """Within `unit` of each value and `floor` of the largest."""
    assert found.isfinite().all()
    assert ((found.double() - wanted).abs() <= unit * wanted.abs() + floor * wanted.abs().max()).all()


# Of the largest value. Tensor cores align the products of a step before they add them: in fp8 13 bits of a sum are left
# (SageAttention2), in 16 bits a little less than fp32 has. The interpreter adds in fp32.
FLOORS_ON_A_CARD = {"int8": 2e-6, "e4m3": 2**-10, "w8a16": 1e-5}


def floor_of(kind: str, device: torch.device) -> float:
    """How much of the largest value a sum may be off."""
    return FLOORS_ON_A_CARD[kind] if device.type == "cuda" else 2e-6


def name_of(codes: torch.dtype) -> str:
    return "int8" if codes == torch.int8 else "e4m3"


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("codes", CODES)
@pytest.mark.parametrize("shape", SHAPES)
def test_against_fp64(device, shape, codes, bias):
    rows, depth, columns = shape
    torch.manual_seed(4)
    x, weight = codes_of(device, rows, depth, codes), codes_of(device, columns, depth, codes)
    added = torch.randn(columns, device=device) if bias else None
    out = torch.empty(rows, columns, device=device)
    scaled_mm(*x, *weight, added, MmOutput(Rows.of(out)))
    close(out, exact(*x, *weight, added), 2e-6, floor_of(name_of(codes), device))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_output_is_rounded_once(device, dtype):
    x, weight = codes_of(device, 9, 64, torch.int8), codes_of(device, 20, 64, torch.int8)
    wide, narrow = torch.empty(9, 20, device=device), torch.empty(9, 20, device=device, dtype=dtype)
    for out in (wide, narrow):
        scaled_mm(*x, *weight, None, MmOutput(Rows.of(out)))
    assert torch.equal(narrow, wide.to(dtype))


@pytest.mark.parametrize("codes", CODES)
def test_a_slice_of_rows_into_a_slice_of_channels(device, codes):
    """As linear1's MLP rows go into linear2's input: nothing beside them is touched."""
    x, (weight, scale) = codes_of(device, 7, 64, codes), codes_of(device, 50, 64, codes)
    both = torch.full((7, 60), 5.0, device=device)
    scaled_mm(*x, weight[13:40], scale[13:40], None, MmOutput(Rows.of(both[:, 20:47])))
    close(both[:, 20:47], exact(*x, weight[13:40], scale[13:40], None), 2e-6, floor_of(name_of(codes), device))
    both[:, 20:47] = 5.0
    assert (both == 5.0).all()


@pytest.mark.parametrize("kind", ["int8", "e4m3", "w8a16"])
@pytest.mark.parametrize("epilogue", ["gelu", "residual"])
def test_epilogues(device, kind, epilogue):
    """Two samples, a chunk of their tokens, a gate each."""
    torch.manual_seed(6)
    codes = torch.float8_e4m3fn if kind == "e4m3" else torch.int8
    (x, x_scale), (weight, scale) = codes_of(device, 10, 96, codes), codes_of(device, 40, 96, codes)
    bias, gate = torch.randn(40, device=device), torch.randn(2, 3, 40, device=device)[:, 1]
    tokens = torch.randn(2, 9, 40, device=device)
    before = tokens.clone()
    output = MmOutput(Rows.of(tokens[:, 2:7]), epilogue, gate if epilogue == "residual" else None)
    if kind == "w8a16":
        x, x_scale = torch.randn(10, 96, device=device).to(torch.bfloat16), None
        w8a16_mm(x, weight, scale, bias, output)
    else:
        scaled_mm(x, x_scale, weight, scale, bias, output)
    product = exact(x, x_scale, weight, scale, bias).view(2, 5, 40)
    wanted = gelu(product) if epilogue == "gelu" else before[:, 2:7] + gate[:, None].double() * product
    close(tokens[:, 2:7], wanted, 4e-6, floor_of(kind, device))
    tokens[:, 2:7] = before[:, 2:7]
    assert torch.equal(tokens, before)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("codes", CODES)
@pytest.mark.parametrize("shape", SHAPES)
def test_weights_are_decoded_exactly(device, shape, codes, dtype):
    rows, depth, columns = shape
    torch.manual_seed(8)
    x, weight = torch.randn(rows, depth, device=device).to(dtype), codes_of(device, columns, depth, codes)
    bias, out = torch.randn(columns, device=device), torch.empty(rows, columns, device=device)
    w8a16_mm(x, *weight, bias, MmOutput(Rows.of(out)))
    close(out, exact(x, None, *weight, bias), 2e-6, floor_of("w8a16", device))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_every_e4m3_code_is_decoded(device, dtype):
    codes = torch.arange(256, dtype=torch.uint8, device=device)
    codes = codes[(codes & 0x7F) != 0x7F].view(torch.float8_e4m3fn).view(-1, 1)  # all but NaN
    out = torch.empty(1, len(codes), device=device)
    ones = torch.ones(len(codes), device=device)
    w8a16_mm(torch.ones(1, 1, dtype=dtype, device=device), codes, ones, None, MmOutput(Rows.of(out)))
    assert torch.equal(out[0], codes[:, 0].float())


def test_rows_beyond_two_to_the_31_elements(device):
    """The last row of three starts at element 2**31 + 2: a 32-bit offset would write elsewhere."""
    storage = torch.UntypedStorage(2 * (2**31 + 8), device=device)  # 4 GiB of addresses, a few pages of memory
    out = torch.empty(0, dtype=torch.bfloat16, device=device).set_(storage, 0, (3, 4), (2**30 + 1, 1))
    x, weight = codes_of(device, 3, 32, torch.int8), codes_of(device, 4, 32, torch.int8)
    scaled_mm(*x, *weight, None, MmOutput(Rows.of(out)))
    close(out.float(), exact(*x, *weight, None), 2**-8)
