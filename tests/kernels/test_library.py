"""The operations as PyTorch sees them: schemas and fakes that tell the truth, on fake CUDA tensors without a card."""

from __future__ import annotations

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.library import CustomOpDef

from hvlite.kernels import attention_library, library, ops, reference
from hvlite.kernels.mm_choice import CHOICES, choose_mm


def cases():
    """Every registered operation with inputs on the CPU, where its body is the reference."""
    x, row = torch.randn(2, 5, 64), torch.randn(2, 64)
    codes, scale = reference.quantize_tokens(torch.randn(10, 64), torch.int8)
    weight, weight_scale = reference.quantize_tokens(torch.randn(48, 64), torch.int8)
    out = torch.randn(2, 5, 48)
    video = torch.randn(2, 4, 3, 5, 7)
    yield library.modulated_norm, (x, row, row, 1e-6)
    yield library.modulated_norm_codes, (x, row, row, 1e-6, torch.int8)
    yield library.quantize_tokens, (x, torch.int8, 20)
    yield library.gelu_codes_, (x, torch.int8, 20)
    yield library.gelu_tanh, (x,)
    yield library.gelu_tanh_, (x,)
    yield library.gated_residual_, (x, torch.randn_like(x), row)
    yield library.codes_mm_, (out, codes, scale, weight, weight_scale, None, None, True)
    yield library.codes_mm_, (out, codes, scale, weight, weight_scale, torch.randn(48), torch.randn(2, 48), False)
    yield library.codes_mm_, (out.view(10, 48), torch.randn(10, 64), None, weight, weight_scale, None, None, False)
    yield library.group_moments, (video, 2)
    yield library.scale_shift_silu, (video, torch.randn(2, 4), torch.randn(2, 4))


@pytest.mark.parametrize("case", list(cases()), ids=lambda case: case[0]._name)
def test_schema_and_fake(case):
    operation, inputs = case
    torch.library.opcheck(operation, inputs, test_utils=("test_schema", "test_faketensor"))


OPERATIONS = [
    each for module in (library, attention_library) for each in vars(module).values() if isinstance(each, CustomOpDef)
]


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation._name)
def test_every_kernel_starts_on_the_card_of_its_tensors(operation, monkeypatch):
    """Triton launches on the current card: with tensors on another one it would read memory that is not there."""
    entered = []

    class Entered(Exception):
        """Instead of a launch."""

    def device(chosen):
        entered.append(chosen)
        raise Entered

    monkeypatch.setattr(torch.cuda, "device", device)
    x = torch.empty(1, 1, 1, device="meta")
    with pytest.raises(Entered):
        operation._backend_fns["cuda"](x, *[None] * (len(operation._opoverload._schema.arguments) - 1))
    assert entered == [x.device]


def test_fake_cuda_tensors_take_the_fused_way():
    """What a plan counts for a card: codes of one byte and no copy in fp32."""
    seen = []

    class Names(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            seen.append(str(function))
            return function(*args, **(kwargs or {}))

    with FakeTensorMode(), Names():
        x, row = torch.empty(1, 7, 64, device="cuda", dtype=torch.bfloat16), torch.empty(1, 64, device="cuda")
        codes, scale = ops.modulated_norm_codes(x, row, row, torch.float8_e4m3fn)
        assert (codes.shape, codes.dtype, scale.shape, codes.device.type) == (
            x.shape,
            torch.float8_e4m3fn,
            (1, 7),
            "cuda",
        )
        weight, weight_scale = torch.empty(48, 64, device="cuda", dtype=torch.int8), torch.empty(48, device="cuda")
        assert ops.w8a16_mm(x, weight, weight_scale).shape == (1, 7, 48)
        ops.gated_residual_(x, x, row)
        shift = torch.empty(64, device="cuda")  # a slice of a fake CUDA tensor needs CUDA in PyTorch
        ops.group_norm_silu(torch.empty(1, 64, 3, 3, device="cuda"), shift, shift, 2, 1e-6)
    assert {"hvlite.modulated_norm_codes.default", "hvlite.codes_mm_.default", "hvlite.gated_residual_.default"} <= set(
        seen
    )


@torch.no_grad()
def test_compile_sees_one_operation():
    """torch.compile keeps an operation whole: no graph break, and the same result."""

    def run(x, shift, scale):
        return library.modulated_norm(x, shift, scale, 1e-6) * 2

    x, row = torch.randn(1, 5, 64), torch.randn(1, 64)
    compiled = torch.compile(run, backend="aot_eager", fullgraph=True)
    assert torch.equal(compiled(x, row, row), run(x, row, row))


@pytest.mark.parametrize(
    ("name", "capability", "kernel"),
    [
        ("int8_mm", 80, "hvlite"),
        ("int8_mm", 86, "hvlite"),
        ("int8_mm", 87, "hvlite"),
        ("int8_mm", 120, "hvlite"),
        ("fp8_mm", 89, "torch"),
        ("fp8_mm", 90, "torch"),
        ("fp8_mm", 103, "torch"),
    ],
)
def test_the_choice_is_a_table(name, capability, kernel):
    choice = choose_mm(name, capability)
    assert choice is not None
    assert choice.kernel == kernel


def test_no_fp8_products_before_sm_89():
    assert choose_mm("fp8_mm", 86) is None
    assert choose_mm("int8_mm", 75) is None


def test_every_choice_has_a_reason():
    assert all(choice.why for table in CHOICES.values() for choice in table.values())


@pytest.mark.parametrize("rows", [1, 16, 17, 40])
def test_few_rows_of_int8_without_our_kernels(rows, monkeypatch):
    """On a card without Triton the reference multiplies, and torch's own refuses 16 rows and fewer there."""
    multiply = torch._int_mm

    def as_on_a_card(x, weight):
        assert x.shape[0] > 16, f"self.size(0) needs to be greater than 16, but got {x.shape[0]}"
        return multiply(x, weight)

    x, weight = (reference.quantize_tokens(torch.randn(each, 64), torch.int8) for each in (rows, 48))
    wanted = x[0].double() @ weight[0].double().t() * x[1][:, None] * weight[1]
    monkeypatch.setattr(torch, "_int_mm", as_on_a_card)
    torch.testing.assert_close(ops.int8_mm(*x, *weight).double(), wanted, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(("first", "taken"), [(0, True), (16, True), (8, False)])
def test_codes_that_do_not_start_on_16_bytes_are_left_to_our_kernel(first, taken):
    """A block's tensors lie one after another in one buffer; CUTLASS reads 16 bytes at once."""
    flat = torch.zeros(first + 32 * 16, dtype=torch.uint8).view(torch.float8_e4m3fn)
    assert ops._scaled_mm_takes(flat[first:].view(32, 16)) is taken
