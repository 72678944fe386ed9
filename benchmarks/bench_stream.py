"""A denoising step with its blocks resident, streamed from host memory, and read from disk: time, memory, overlap.

Random weights of the official block shapes (random_model.py). On a CPU a few blocks and tokens: there copies do not run
beside computation, so only reads can hide. The files are in the page cache unless memory is short; the disk's own rate
stands beside the times.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from ..errors import MemoryLimitError
from ..lite.attention import Attention, choose_attention
from ..lite.device import memory_errors, probe_device
from ..lite.models.chunked import DEFAULT_TOKEN_CHUNK
from ..lite.sampling import flow_schedule, guidance_input
from ..lite.streaming.tiers import TIERS, Tier, TierCounts
from ..lite.streaming.transformer_blocks import LoadedTransformer
from ..lite.velocity import Velocity
from ..quantize.architecture import TransformerConfig
from .cases import FEW_BLOCKS, LARGEST, MEDIUM, SMALL, TINY, Case, flops_of_step
from .random_model import BlockStore, make_block_store, open_random_transformer, pinned_bytes, random_embeds
from .rates import disk_bytes_per_s, link_bytes_per_s
from .results import Plain, Result, Seconds, check_gate
from .suite import BenchOptions
from .timing import seconds_of, time_work
from .watch import Watch

PART = "stream"
SCHEME = "int8"
REPEATS = 5
GATE = "finite, and the same bits in every tier"
CUDA_CASES = (SMALL[1], MEDIUM[2], LARGEST)


@dataclass
class Measured:
    """What was found so far, for what comes after it to be compared with or planned by."""

    rates: dict[str, Plain]
    output: Tensor | None = None
    resident: Seconds | None = None
    flop_per_s: float | None = None

    def next_case(self) -> None:
        """Outputs and times of one case say nothing about another."""
        self.output = self.resident = None

    def expected_s(self, config: TransformerConfig, case: Case) -> float:
        """How long a warm-up and one step will take; 0 before anything is known."""
        return 0.0 if self.flop_per_s is None else 2 * sum(flops_of_step(config, case)) / self.flop_per_s


def run(options: BenchOptions) -> Iterator[Result]:
    """Every case in every tier, as far as time and memory go."""
    cuda = options.device.type == "cuda"
    config = TransformerConfig() if cuda else FEW_BLOCKS
    store = make_block_store(options.work, config, SCHEME)
    yield from run_cases(options, store, CUDA_CASES if cuda else TINY)


def run_cases(options: BenchOptions, store: BlockStore, cases: tuple[Case, ...]) -> Iterator[Result]:
    """The same with blocks and cases given."""
    link, disk = link_bytes_per_s(options.device), disk_bytes_per_s(store.files[0].path)
    measured = Measured({"link_bytes_per_s": link, "disk_bytes_per_s": disk})
    for case in cases:
        measured.next_case()
        for tier in TIERS:
            if options.seconds_left <= measured.expected_s(store.config, case):
                options.skip(PART, f"{case.name} {tier}: not enough time was left")
                continue
            try:
                with memory_errors(f"{case.name} {tier}"):
                    yield _measure(options, store, case, tier, measured)
            except MemoryLimitError as error:
                options.skip(PART, error.message)


def _measure(options: BenchOptions, store: BlockStore, case: Case, tier: Tier, measured: Measured) -> Result:
    device = options.device
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    with Watch(device, f"{case.name} {tier}") as watch:
        transformer = open_random_transformer(store, TierCounts.all_in(tier, len(store.files)), device, dtype)
        try:
            step = step_function(transformer, case)
            gate = _gate(step(), measured)  # the warm-up as well
            seconds = time_work(step, device, repeats=REPEATS, warm_up=0, until=_until(options))
            copies = None if tier == "resident" else seconds_of(partial(_pass_over, transformer), device)
            pinned, attention = pinned_bytes(transformer), str(attention_of(transformer))
        finally:
            transformer.close()
            if device.type == "cuda":
                torch.cuda.empty_cache()  # the next tier's buffers have other sizes
    measured.resident = seconds if tier == "resident" else measured.resident
    measured.flop_per_s = sum(flops_of_step(store.config, case)) / seconds.median
    return Result(
        part=PART,
        case=f"{case.name} {tier}",
        gate=gate,
        seconds=seconds,
        peaks=watch.peaks(pinned),
        streamed_bytes=0 if tier == "resident" else store.nbytes,
        values={
            "tokens": case.tokens,
            "tflop_per_s": measured.flop_per_s / 1e12,
            "flop_per_byte": sum(flops_of_step(store.config, case)) / store.nbytes,  # of weights
            **_values(seconds, copies, store.nbytes, measured),
        },
        settings={
            "scheme": SCHEME,
            "tier": tier,
            "blocks": len(store.files),
            "hidden_size": store.config.hidden_size,
            "token_chunk": DEFAULT_TOKEN_CHUNK,
            "attention": attention,
        },
    )


@torch.no_grad()
def step_function(
    transformer: LoadedTransformer, case: Case, token_chunk: int = DEFAULT_TOKEN_CHUNK, schedule_steps: int = 4
) -> partial[Tensor]:
    """One step of denoising as a call without arguments; the modulation of all steps is computed here, once."""
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn(1, transformer.config.in_channels, *case.latent_shape, generator=generator)
    velocity = Velocity(
        transformer,
        random_embeds(transformer.config, case.text_tokens),
        flow_schedule(schedule_steps, 7.0).timesteps,
        guidance_input(6.0, transformer.dtype),
        token_chunk=token_chunk,
        attention=attention_of(transformer),
    )
    return partial(torch.no_grad()(velocity), latents.to(transformer.device), 0)


def attention_of(transformer: LoadedTransformer) -> Attention:
    """What `--attention auto` takes here."""
    chosen = choose_attention("auto", probe_device(transformer.device.type), transformer.dtype)
    return chosen.for_heads(transformer.config.head_dim, transformer.device)


def _gate(output: Tensor, measured: Measured) -> str:
    first = output if measured.output is None else measured.output
    measured.output = first
    return check_gate(bool(torch.isfinite(output).all()) and torch.equal(output, first), GATE)


def _until(options: BenchOptions) -> float:
    """A tier of a case may take half of the time that is left, so that others have their turn."""
    return time.monotonic() + max(0.0, options.seconds_left) / 2


def _pass_over(transformer: LoadedTransformer) -> None:
    """Every block on its way, none computed with."""
    for _ in transformer.blocks.each():
        pass


def _values(seconds: Seconds, copies: float | None, nbytes: int, measured: Measured) -> dict[str, Plain]:
    """How the time compares. overlap: the longer of computing and moving, as a share of the time of both together."""
    values: dict[str, Plain] = {}
    if copies is not None:
        values = {"moving_only_s": copies, "moved_bytes_per_s": nbytes / copies, **measured.rates}
        if measured.resident is not None:
            alone = measured.resident.median
            values["to_resident_ratio"] = seconds.median / alone
            values["overlap_share"] = min(1.0, max(alone, copies) / seconds.median)
    return values
