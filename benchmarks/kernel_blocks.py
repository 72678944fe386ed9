"""A block of each kind over all tokens: ours, quantized and in chunks, against eager PyTorch in bf16."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import torch
from torch import Tensor, nn

from ..errors import MemoryLimitError
from ..kernels.reference import quantize_tokens
from ..lite.arithmetic import choose_arithmetic, kernel_capability
from ..lite.device import memory_errors
from ..lite.models.blocks import DoubleStreamBlock, Modulate, Modulation, Rope, SingleStreamBlock
from ..lite.models.chunked import DEFAULT_TOKEN_CHUNK, Sequence, run_double, run_single
from ..lite.models.linear import QuantLinear
from ..quantize.architecture import TransformerConfig
from .measure import AllocationTracker
from .results import Plain, Result, check_gate
from .suite import BenchOptions
from .timing import time_work

PART = "kernels"
TEXT = 256
LIMIT = 0.1  # relative distance of what a block adds: weights and activations in 8 bits
CPU_CONFIG = TransformerConfig(hidden_size=64, heads_num=2, rope_dim_list=(8, 12, 12))
CPU_TOKENS = 300
CUDA_TOKENS = 118_800


def block_results(options: BenchOptions) -> Iterator[Result]:
    """Both kinds of block; one that does not fit eagerly is left out with the reason."""
    cuda = options.device.type == "cuda"
    config, tokens = (TransformerConfig(), CUDA_TOKENS) if cuda else (CPU_CONFIG, CPU_TOKENS)
    dtype = torch.bfloat16 if cuda else torch.float32
    for kind in (DoubleStreamBlock, SingleStreamBlock):
        if options.seconds_left <= 0:
            options.skip(PART, f"{kind.__name__}: no time was left")
            continue
        try:
            with memory_errors(kind.__name__), torch.no_grad():
                yield _measure(options, kind, config, tokens, dtype)
        except MemoryLimitError as error:
            options.skip(PART, error.message)


def _measure(
    options: BenchOptions,
    kind: type[DoubleStreamBlock | SingleStreamBlock],
    config: TransformerConfig,
    tokens: int,
    dtype: torch.dtype,
) -> Result:
    device = options.device
    torch.manual_seed(0)
    block = kind(config).to(device, dtype).eval()
    start = torch.randn(1, tokens + TEXT, config.hidden_size, device=device, dtype=dtype)
    rope = Rope(*(torch.rand(tokens, config.head_dim // 2, device=device) for _ in range(2)))
    modulation = _modulation(block, config.hidden_size, device, dtype)
    eager = _eager(block, start, modulation, rope, tokens)
    wanted = eager()[:, ::97] - start[:, ::97]
    eager_peak = _peak_bytes(eager, device)
    eager_time = time_work(eager, device, until=options.until)
    quantize_block(block)
    chunk = DEFAULT_TOKEN_CHUNK if tokens > 1000 else 64

    def allocate() -> Sequence:
        return Sequence.allocate(config, 1, tokens, TEXT, rope, start, chunk)

    sequence = allocate()

    def ours(into: Sequence = sequence) -> Tensor:
        into.tokens.copy_(start)
        _run(block, into, modulation)
        return into.tokens

    found = ours()[:, ::97] - start[:, ::97]
    error = float((found - wanted).float().norm() / wanted.float().norm())
    gate = check_gate(error <= LIMIT, f"what the block adds differs by {error:.3f} of it, at most {LIMIT}")
    peak = _peak_bytes(lambda: ours(allocate()), device) - start.nbytes  # the tokens lie where they came: counted once
    seconds = time_work(ours, device, until=options.until)
    values: dict[str, Plain] = {
        "eager_s": eager_time.median,
        "eager_to_ours_ratio": eager_time.median / seconds.median,
        "activation_bytes": peak,
        "eager_activation_bytes": eager_peak,
        "eager_to_ours_memory_ratio": eager_peak / peak,
    }
    settings: dict[str, Plain] = {"tokens": tokens, "hidden": config.hidden_size, "dtype": str(dtype)[6:]}
    return Result(part=PART, case=kind.__name__, gate=gate, seconds=seconds, values=values, settings=settings)


def quantize_block(block: nn.Module) -> None:
    """Its linear layers in fp8 where the device multiplies that, else in int8; modulation stays."""
    device = next(block.parameters()).device
    arithmetic = choose_arithmetic("auto", kernel_capability(device))
    codes = torch.float8_e4m3fn if arithmetic.fp8 == "w8a8" else torch.int8
    skipped = {id(module.linear) for module in block.modules() if isinstance(module, Modulate)}
    for name, layer in list(block.named_modules()):
        if isinstance(layer, nn.Linear) and id(layer) not in skipped:
            weight, scale = quantize_tokens(layer.weight.detach(), codes)
            block.set_submodule(name, QuantLinear(weight, scale, layer.bias, arithmetic.of(codes)))


def _modulation(block: nn.Module, hidden: int, device: torch.device, dtype: torch.dtype) -> list[Modulation]:
    """As many as the block has: shift and scale near 0, gates near 1."""

    def branch() -> Modulation:
        shift, scale, gate = (0.1 * torch.randn(1, hidden, device=device, dtype=dtype) for _ in range(3))
        return replace(Modulation(shift, scale, gate), gate=gate + 1)

    return [branch() for _ in range(4 if isinstance(block, DoubleStreamBlock) else 1)]


def _eager(
    block: nn.Module, start: Tensor, modulation: list[Modulation], rope: Rope, tokens: int
) -> Callable[[], Tensor]:
    """The whole block at once, as the official code runs it."""
    if isinstance(block, DoubleStreamBlock):
        video, text = start[:, :tokens], start[:, tokens:]
        pairs = (tuple(modulation[:2]), tuple(modulation[2:]))
        return lambda: torch.cat(block(video, text, pairs, rope), dim=1)
    return lambda: block(start, modulation[0], rope)


def _run(block: nn.Module, sequence: Sequence, modulation: list[Modulation]) -> None:
    if isinstance(block, DoubleStreamBlock):
        run_double(block, sequence, (tuple(modulation[:2]), tuple(modulation[2:])))
    elif isinstance(block, SingleStreamBlock):
        run_single(block, sequence, modulation[0])


def _peak_bytes(work: Callable[[], object], device: torch.device) -> int:
    """What `work` holds at most over what was there before."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        work()
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device) - before
    with AllocationTracker() as memory:
        work()
    return memory.peak_bytes
