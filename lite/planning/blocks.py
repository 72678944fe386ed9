"""Where each block of the transformer lives, and how many tokens a chunk has: the choice (arithmetic only)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

from ..streaming.tiers import Tier, TierCounts, choose_tier, spread_tiers
from .denoise import FULL_CHUNK, TOKEN_CHUNKS, Step, modulation_moment, peak_moment
from .host import RING, HostShare, host_share
from .model import ModelSizes
from .time import Streaming, step_seconds
from .types import Machine, Moment, Work, fits_device, last_fitting

SLOTS = 2  # one block computes while the next is copied


_spread = lru_cache(maxsize=4096)(spread_tiers)


@dataclass(frozen=True)
class Arrangement:
    """One way to run the blocks."""

    tiers: TierCounts
    slots: int
    device_bytes: int  # all weights of the transformer that are on the device
    host: HostShare
    streaming: Streaming
    step: Step
    peak: Moment  # of a step, weights apart

    @property
    def denoise_bytes(self) -> int:
        return self.device_bytes + self.peak.nbytes

    @property
    def modulation_bytes(self) -> int:
        return self.device_bytes + modulation_moment(self.step).nbytes


def choose_blocks(model: ModelSizes, work: Work, machine: Machine, tier: str = "auto") -> Arrangement:
    """The fastest arrangement that fits; the smallest one where none does. ConfigError for a tier that cannot be."""
    choose_tier(tier, model.name, streamable=model.streamable)
    able = [each for each in _arrangements(model, work, machine, tier) if _fits(each, machine)]
    if able:
        return min(able, key=lambda each: _cost(each, model, machine))
    smallest = [*_arrangements(model, work, machine, tier, resident_too=False)]
    return min(smallest, key=lambda each: each.denoise_bytes + each.host.peak_bytes * machine.on_cpu)


def _cost(arrangement: Arrangement, model: ModelSizes, machine: Machine) -> tuple[float, bool, int, int]:
    """Time first. Of equally fast ones (copies hide) those whose chunks fill a card, then the fewest copies.

    Where no rate is known the fewest copies decide.
    """
    seconds = step_seconds(model, arrangement.step, arrangement.streaming, machine.gpu)
    copied, chunk = arrangement.streaming.copied_bytes, arrangement.step.chunk
    return (0.0, False, copied, -chunk) if seconds is None else (seconds, chunk < FULL_CHUNK, copied, -chunk)


def _fits(arrangement: Arrangement, machine: Machine) -> bool:
    device = max(arrangement.denoise_bytes, arrangement.modulation_bytes)
    host = machine.host_base_bytes + arrangement.host.peak_bytes + device * machine.on_cpu
    return fits_device(device, machine) and host <= machine.ram_bytes


def _arrangements(
    model: ModelSizes, work: Work, machine: Machine, tier: str, *, resident_too: bool = True
) -> Iterator[Arrangement]:
    """For every chunk size the most resident blocks that fit, and none at all."""
    for chunk in TOKEN_CHUNKS:
        step = make_step(model, work, machine, chunk)
        if tier == "resident" or not model.streamable:
            yield arrange_blocks(model, machine, step, TierCounts(resident=len(model.blocks)))
            continue
        for resident in _resident_counts(model, machine, step) if tier == "auto" and resident_too else (0,):
            yield arrange_blocks(model, machine, step, _tiers(model, machine, resident, tier))


def make_step(model: ModelSizes, work: Work, machine: Machine, chunk: int) -> Step:
    """The step of some work on a machine. A model that is not streamed is widened when it is loaded."""
    plain = "fp32" if machine.on_cpu else "bf16"
    return Step(
        config=model.config,
        height=work.height,
        width=work.width,
        frames=work.frames,
        steps=work.steps,
        chunk=chunk,
        w=machine.w,
        scheme=model.scheme if model.streamable else plain,
        guided=work.guided,
        attention=machine.attention,
        fused=model.streamable and model.scheme in machine.fused,
    )


def _resident_counts(model: ModelSizes, machine: Machine, step: Step) -> tuple[int, ...]:
    """None, and the largest number of resident blocks that fits with slots for the others."""

    def fits(count: int) -> bool:
        return _fits(arrange_blocks(model, machine, step, _tiers(model, machine, count, "disk")), machine)

    most = last_fitting(range(len(model.blocks) + 1), fits)
    everything = len(model.blocks)
    return (0, everything) if fits(everything) else (0, most or 0)


def _tiers(model: ModelSizes, machine: Machine, resident: int, tier: str) -> TierCounts:
    """The blocks that are not resident: on the host as far as its limit goes, the rest on disk."""
    streamed = len(model.blocks) - resident
    if tier == "host":
        return TierCounts(resident=resident, host=streamed)
    # On a CPU a copy of a block in memory is what a resident block is.
    if tier == "disk" or machine.on_cpu:
        return TierCounts(resident=resident, disk=streamed)
    largest = max(model.blocks)
    spare = machine.ram_bytes - machine.host_base_bytes - RING * largest
    host = next((n for n in range(streamed, 0, -1) if n * largest <= spare), 0)
    return TierCounts(resident=resident, host=host, disk=streamed - host)


def arrange_blocks(model: ModelSizes, machine: Machine, step: Step, tiers: TierCounts) -> Arrangement:
    """What the blocks take, spread over these tiers."""
    placed = tuple(zip(_spread(tiers), model.blocks, strict=True))
    streamed = [nbytes for tier, nbytes in placed if tier != "resident"]
    slots = min(SLOTS, len(streamed))
    host = host_share(machine, placed)
    return Arrangement(
        tiers=tiers,
        slots=slots,
        device_bytes=_resident_bytes(model, step, placed) + slots * max(streamed, default=0),
        host=host,
        streaming=Streaming(sum(streamed), host.staged_bytes, _bytes_in(placed, "disk")),
        step=step,
        peak=peak_moment(step),
    )


def _resident_bytes(model: ModelSizes, step: Step, placed: tuple[tuple[Tier, int], ...]) -> int:
    """What is outside of the blocks, and resident blocks: as stored, or the whole model in the type it computes in."""
    outer = model.outer_elements * step.w
    if not model.streamable:
        return outer + (model.block_elements + model.modulation_elements) * step.w
    return outer + _bytes_in(placed, "resident")


def _bytes_in(placed: tuple[tuple[Tier, int], ...], wanted: str) -> int:
    return sum(nbytes for tier, nbytes in placed if tier == wanted)
