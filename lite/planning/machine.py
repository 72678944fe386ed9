"""From the device and the limits a person gave to the machine that a plan is made for."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ...errors import ConfigError
from .attention import attention_of, fused_of
from .gpus import Gpu, find_gpu
from .limits import gib
from .types import DEFAULT_RAM_LIMIT_BYTES, Machine

if TYPE_CHECKING:
    from ..device import DeviceInfo


@dataclass(frozen=True)
class MemoryLimits:
    """Caps in bytes. None: all of the card, and 16 GiB of the machine's memory."""

    vram_bytes: int | None = None
    ram_bytes: int | None = None

    @property
    def ram(self) -> int:
        return DEFAULT_RAM_LIMIT_BYTES if self.ram_bytes is None else self.ram_bytes


def machine_of(info: DeviceInfo, limits: MemoryLimits) -> Machine:
    """The machine of a probed device under the limits; ConfigError for a card's limit where there is no card."""
    if not info.is_cuda:
        if limits.vram_bytes is not None:
            raise ConfigError(
                f"--vram-limit {gib(limits.vram_bytes)}: this run is on a CPU, which has no memory of its own",
                hint="--ram-limit is its limit; hvlite plan --vram-limit plans for a card that is not here",
            )
        return Machine(vram_bytes=0, ram_bytes=limits.ram)
    gpu = present_gpu(info)
    vram = gpu.memory_bytes if limits.vram_bytes is None else min(gpu.memory_bytes, limits.vram_bytes)
    return Machine(vram_bytes=vram, ram_bytes=limits.ram, gpu=gpu)


def on_its_kernels(machine: Machine) -> Machine:
    """With the attention and the arithmetic that a card of its capability takes; as it is where that is not known."""
    if machine.gpu is None or machine.gpu.capability is None:
        return machine
    capability = machine.gpu.capability
    return replace(machine, attention=attention_of(capability), fused=fused_of(capability))


def present_gpu(info: DeviceInfo) -> Gpu:
    """The card with its own memory, and the table's rates where its name is in it."""
    try:
        known = find_gpu(info.name)
    except ConfigError:
        return Gpu(info.name, info.total_bytes, info.capability)
    return Gpu(
        info.name,
        info.total_bytes,
        info.capability,
        known.bandwidth_bytes_per_s,
        known.link_bytes_per_s,
        known.tensor_flops,
    )
