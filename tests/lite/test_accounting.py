"""The plan's arithmetic against PyTorch's own accounting, at real shapes: never under, and within 0.5 % of it.

Fake tensors have shapes and storages but no memory, so a step of the 13B model's width over 118,800 tokens can be
followed operator by operator. Depth does not change the activations: one block of each kind stands for all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from hvlite.benchmarks.activation_peaks import Measured, build_transformer, built, step_peak
from hvlite.benchmarks.cases import FEW_BLOCKS, Case
from hvlite.benchmarks.fake_card import kernels_on_fakes
from hvlite.benchmarks.measure import AllocationTracker
from hvlite.kernels import ops
from hvlite.kernels.attention_variant import INT8_FP8, INT8_FP16
from hvlite.lite.attention import EXACT, Attention
from hvlite.lite.encoders.text_models import HOW_IT_RUNS
from hvlite.lite.models.linear import Nf4Linear, QuantLinear
from hvlite.lite.models.transformer import HunyuanVideoTransformer
from hvlite.lite.models.vae import AutoencoderKLCausal3D
from hvlite.lite.models.vae_lean import decode_lean
from hvlite.lite.planning import operators as op
from hvlite.lite.planning.decode import tile_moment
from hvlite.lite.planning.denoise import Step, peak_moment
from hvlite.lite.planning.model import plan_model
from hvlite.lite.planning.text import TEXT_TOKENS, layer_bytes
from hvlite.quantize.architecture import VaeConfig
from hvlite.quantize.presets import LLAMA

Check = Callable[..., None]

LIMIT = 0.005
SLOW = pytest.mark.slow
DTYPES = {2: torch.bfloat16, 4: torch.float32}
PLAIN = {2: "bf16", 4: "fp32"}
# Sizes and chunks: a case costs about a second for every ten chunks.
GRID = [
    ((720, 1280, 129), 8192),
    ((544, 960, 129), 8192),
    ((720, 1280, 65), 8192),
    ((720, 1280, 33), 8192),
    ((720, 1280, 33), 4096),
    ((544, 960, 33), 8192),
    ((544, 960, 33), 2048),
    ((320, 512, 33), 8192),
    ((320, 512, 33), 1024),
    ((832, 1104, 5), 8192),
    ((832, 1104, 5), 2048),
    ((720, 1280, 1), 8192),
    ((720, 1280, 1), 1024),
    ((64, 64, 1), 8192),
]


@pytest.fixture(scope="module")
def fake() -> Iterator[FakeTensorMode]:
    mode = FakeTensorMode()
    yield mode
    transformer.cache_clear()


def measured(before: list[Tensor], run: Callable[[], object]) -> Measured:
    """The peak of `run` over the tensors of `before` (which count while they live)."""
    with AllocationTracker() as memory:
        memory.hold(before)
        start = memory.live_bytes
        memory.restart()
        result = run()
    del result
    return Measured(memory.peak_bytes - start, memory.peak_operator)


@pytest.fixture
def check(record_property: Callable[[str, object], None]) -> Check:
    """check(name, predicted, real): never under, and at most `limit` over."""

    def compare(name: str, predicted: int, real: Measured, limit: float = LIMIT) -> None:
        ratio = predicted / real.nbytes
        assert 1 <= ratio <= 1 + limit, f"{name}: {predicted:,} predicted, {real.nbytes:,} held at {real.operator}"
        record_property("accounting", ratio)

    return compare


# Operators


OperatorCase = tuple[str, Callable[..., object], tuple[Tensor, ...], op.Cost]


def operator_cases(w: int) -> Iterator[OperatorCase]:
    """Every entry of the table at the 13B model's width, 2048 tokens: name, call, its inputs, its cost."""
    n, c, heads, dtype = 2048, 3072, 24, DTYPES[w]
    x, row, angles = torch.empty(1, n, c, dtype=dtype), torch.empty(1, c, dtype=dtype), torch.empty(n, 64)
    q, weight = torch.empty(1, n, heads, c // heads, dtype=dtype), torch.empty(c // heads, dtype=dtype)
    yield "modulated_norm", ops.modulated_norm, (x, row, row), op.modulated_norm(n, c, w)
    yield "rms_norm", ops.rms_norm, (q, weight), op.rms_norm(n, c, heads, w)
    yield "apply_rope", ops.apply_rope, (q, angles, angles), op.apply_rope(n, c, w)
    yield "joint_attention", ops.joint_attention, (q, q, q), op.joint_attention(n, c, heads, w)
    yield "gelu_tanh", ops.gelu_tanh, (x,), op.gelu_tanh(n, c, w)
    yield "gelu_tanh_", ops.gelu_tanh_, (x,), op.Cost(0, 0)
    yield "gated_residual_", ops.gated_residual_, (x, x, row), op.Cost(0, 0)

    plain = nn.Linear(c, 4 * c, dtype=dtype)
    yield "linear", plain, (x, *plain.parameters()), op.linear(n, 4 * c, c, w, PLAIN[w])
    codes, scale = torch.empty(4 * c, c, dtype=torch.int8), torch.empty(4 * c)
    int8 = QuantLinear(codes, scale, nn.Parameter(torch.empty(4 * c, dtype=dtype)))
    yield "linear int8", int8, (x, codes, scale, int8.bias), op.linear(n, 4 * c, c, w, "int8")
    packed, absmax, values = torch.empty(c * c // 2, dtype=torch.uint8), torch.empty(c * c // 64), torch.empty(16)
    nf4 = Nf4Linear(packed, absmax, values, (c, c))
    yield "linear nf4", nf4, (x, packed, absmax, values), op.linear(n, c, c, w, "nf4")


@pytest.mark.parametrize("w", [2, 4])
@torch.no_grad()
def test_every_operator(fake, w):
    with fake:
        for name, run, inputs, cost in operator_cases(w):
            with AllocationTracker() as memory:
                memory.hold(inputs)
                before = memory.live_bytes
                result = run(*inputs[: 1 if isinstance(run, nn.Module) else None])
                peak, left = memory.peak_bytes - before, memory.live_bytes - before
            del result
            assert peak <= cost.peak <= 1.01 * peak, f"{name}: {cost.peak:,} predicted, {peak:,} held"
            assert cost.out == left, f"{name}: {cost.out:,} predicted to stay, {left:,} do"


# A step


@cache
def transformer(mode: FakeTensorMode, w: int, scheme: str) -> HunyuanVideoTransformer:
    """Blocks of the 13B model's width, their linear layers as codes where `scheme` is int8."""
    with mode:
        return build_transformer(FEW_BLOCKS, DTYPES[w], torch.int8 if scheme == "int8" else None)


def measured_step(
    mode: FakeTensorMode,
    step: Step,
    model: HunyuanVideoTransformer | None = None,
    attention: Attention = EXACT,
) -> Measured:
    case = Case(step.height, step.width, step.frames, step.text)
    with mode:
        return step_peak(model or transformer(mode, step.w, step.scheme), case, step.chunk, attention, step.steps)


@pytest.mark.parametrize(("w", "scheme"), [(2, "bf16"), (2, "int8"), pytest.param(4, "fp32", marks=SLOW)])
@pytest.mark.parametrize(("size", "chunk"), GRID)
def test_step(fake, check, size, chunk, w, scheme):
    height, width, frames = size
    step = Step(config=FEW_BLOCKS, height=height, width=width, frames=frames, steps=50, chunk=chunk, w=w, scheme=scheme)
    check(f"{size}, chunk {chunk}", peak_moment(step).nbytes, measured_step(fake, step))


@pytest.mark.parametrize("text", [7, 100, 256])
def test_step_of_short_prompts(fake, check, text):
    step = Step(config=FEW_BLOCKS, height=256, width=256, frames=5, steps=10, chunk=8192, text=text)
    check(f"text {text}", peak_moment(step).nbytes, measured_step(fake, step))


# The decode

TILES = [(17, 32, 32), (17, 24, 32), (17, 16, 16), (9, 32, 32), (9, 24, 24), (9, 16, 16), (5, 32, 32), (5, 16, 16)]


@pytest.fixture(scope="module")
def vaes(fake) -> dict[int, AutoencoderKLCausal3D]:
    with fake:
        types = {2: torch.float16, 4: torch.float32}
        return {w: built(lambda: AutoencoderKLCausal3D(VaeConfig()), dtype) for w, dtype in types.items()}


@pytest.mark.parametrize(("w", "lean"), [(2, False), (2, True), (4, False), pytest.param(4, True, marks=SLOW)])
@pytest.mark.parametrize("tile", TILES)
def test_decode_tile(fake, check, vaes, tile, w, lean):
    vae = vaes[w]
    with fake, torch.no_grad():
        latents = torch.empty(1, 16, *tile, dtype=vae.dtype)
        decode = (lambda: decode_lean(vae, latents)) if lean else (lambda: vae.decode_tile(latents))
        real = measured([latents, *vae.parameters()], decode)
    predicted = tile_moment(VaeConfig(), tile, w, lean=lean).nbytes
    check(f"tile {tile}", predicted, Measured(real.nbytes + latents.nbytes, real.operator))


# The language model


@pytest.mark.parametrize("scheme", ["fp16", "nf4"])
@pytest.mark.parametrize("w", [2, 4])
def test_language_model(fake, check, w, scheme):
    """Two layers of the real width: what runs is what one of them holds."""
    from transformers import LlamaConfig, LlamaModel

    sizes = plan_model("hunyuan-video-fp8")
    config = LlamaConfig(**{**LLAMA, "num_hidden_layers": 2}, **HOW_IT_RUNS)
    with fake, torch.no_grad():
        model = built(lambda: LlamaModel(config), {2: torch.float16, 4: torch.float32}[w])
        model.norm = nn.Identity()
        layers = [(name, layer) for name, layer in model.layers.named_modules() if isinstance(layer, nn.Linear)]
        for name, layer in layers if scheme == "nf4" else ():
            count, shape = layer.weight.numel(), (layer.out_features, layer.in_features)
            codes, absmax = torch.empty(count // 2, dtype=torch.uint8), torch.empty(count // 64)
            model.layers.set_submodule(name, Nf4Linear(codes, absmax, torch.empty(16), shape))
        ids = torch.zeros(1, TEXT_TOKENS, dtype=torch.int64)
        before = [*model.parameters(), *model.buffers(), ids]
        real = measured(before, lambda: model(input_ids=ids, use_cache=False).last_hidden_state)
    check(scheme, layer_bytes(replace(sizes, llama_scheme=scheme), w), real, limit=0.03)


# The tracker itself


def test_tracker_counts_what_lives():
    with AllocationTracker() as memory:
        first = torch.empty(1000)
        second = first.view(10, 100)  # a view holds no memory of its own
        assert (memory.live_bytes, memory.peak_bytes) == (4000, 4000)
        third = first + 1
        del first
        assert memory.live_bytes == 8000
        del second
        assert (memory.live_bytes, memory.peak_bytes) == (4000, 8000)
        del third
        assert memory.live_bytes == 0
        assert memory.peak_operator == "aten.add.Tensor"


# A step in fused kernels


@cache
def fused_transformer(mode: FakeTensorMode, codes: torch.dtype) -> HunyuanVideoTransformer:
    """The same blocks, multiplied as codes."""
    with mode:
        return build_transformer(FEW_BLOCKS, DTYPES[2], codes, "w8a8")


@pytest.mark.parametrize("codes", [torch.int8, torch.float8_e4m3fn])
@pytest.mark.parametrize("variant", [INT8_FP8, INT8_FP16, None], ids=lambda v: v.name if v else "16-bit")
@pytest.mark.parametrize(
    ("size", "chunk"),
    [((720, 1280, 129), 8192), ((720, 1280, 129), 4096), ((544, 960, 33), 2048), ((320, 512, 33), 1024)],
)
def test_fused_step(fake, check, size, chunk, variant, codes):
    height, width, frames = size
    attention = Attention("hvlite", variant, "a test") if variant else EXACT
    step = Step(
        config=FEW_BLOCKS,
        height=height,
        width=width,
        frames=frames,
        steps=50,
        chunk=chunk,
        scheme="int8",
        attention=attention.kv_name,
        fused=True,
    )
    with kernels_on_fakes():
        real = measured_step(fake, step, fused_transformer(fake, codes), attention)
    check(f"{size}, chunk {chunk}, {attention.kv_name}", peak_moment(step).nbytes, real, limit=0.01)
