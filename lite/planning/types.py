"""What a plan is made from and what it says (values only)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ..streaming.tiers import TierCounts
from ..tiling import TileSpec
from . import operators as op
from .attention import SIXTEEN_BIT
from .gpus import Gpu

MIB, GIB = 1 << 20, 1 << 30
PINNED_LIMIT_BYTES = 2 * GIB
DEFAULT_RAM_LIMIT_BYTES = 16 * GIB

# Beside the allocations that the plan counts. The context is the driver's; cuBLAS and cuDNN take workspaces; the
# caching allocator rounds and leaves holes. Values differ between drivers: these are meant to be on the safe side.
CONTEXT_BYTES = 450 * MIB
WORKSPACE_BYTES = 256 * MIB
FRAGMENTATION = 0.03

# Of host memory: Python, torch and transformers; with a GPU also the driver's and the libraries' part.
HOST_BASE_BYTES = 640 * MIB
HOST_CUDA_BYTES = 1536 * MIB


@dataclass(frozen=True)
class Moment:
    """A point of the program and the bytes that are alive at it."""

    name: str
    nbytes: int


@dataclass(frozen=True, kw_only=True)
class Work:
    """What is to be made.

    `guided`: classifier-free guidance runs two prompts a step. `tiled`: the decode may cut the video into tiles.
    """

    height: int
    width: int
    frames: int
    steps: int
    guided: bool = False
    tiled: bool = True


@dataclass(frozen=True, kw_only=True)
class Machine:
    """What it may use. `vram_bytes` 0: no graphics card, everything runs on the CPU in fp32. `gpu`: rates, if known.

    `attention`: how its kernel keeps K and V, one of `attention.KV_WIDTHS`. `fused`: the schemes (fp8, int8) whose
    linear layers it multiplies as 8-bit codes, in our kernels; others are widened first.
    """

    vram_bytes: int
    ram_bytes: int = DEFAULT_RAM_LIMIT_BYTES
    pinned_bytes: int = PINNED_LIMIT_BYTES
    gpu: Gpu | None = None
    attention: str = SIXTEEN_BIT
    fused: tuple[str, ...] = ()

    @property
    def on_cpu(self) -> bool:
        return self.vram_bytes == 0

    @property
    def host_base_bytes(self) -> int:
        """Host memory of the process before any work."""
        return HOST_BASE_BYTES + (0 if self.on_cpu else HOST_CUDA_BYTES)

    @property
    def w(self) -> int:
        """Bytes of an activation element: bf16 or fp16 on a card, fp32 on a CPU."""
        return op.FP32 if self.on_cpu else 2


@dataclass(frozen=True)
class Stage:
    """A stage's peaks. `seconds` is an estimate, None where a rate is not known."""

    name: str
    vram_bytes: int
    ram_bytes: int
    streamed_bytes: int
    seconds: float | None
    at: str  # the moment of the peak


@dataclass(frozen=True)
class Setting:
    """A setting that fits where the one asked for does not: the options that ask for it."""

    option: str
    height: int
    width: int
    frames: int
    vram_bytes: int
    ram_bytes: int


@dataclass(frozen=True, kw_only=True)
class MemoryPlan:
    """Where everything lives and what it takes. `reserve_bytes` is beside `peak_vram_bytes`, both under the limit."""

    model: str
    work: Work
    machine: Machine
    fits: bool
    stages: tuple[Stage, ...]
    blocks: TierCounts
    slots: int
    ring: int
    pinned_bytes: int
    reserve_bytes: int
    tile: TileSpec
    lean_decode: bool
    official_tile: bool  # else its pixels differ slightly from the official ones
    text_by_layer: bool
    token_chunk: int
    streamed_bytes_per_step: int
    seconds_per_step: float | None
    nearest: tuple[Setting, ...] = ()

    @property
    def peak_vram_bytes(self) -> int:
        return max(stage.vram_bytes for stage in self.stages)

    @property
    def peak_ram_bytes(self) -> int:
        return max(stage.ram_bytes for stage in self.stages)

    @property
    def seconds(self) -> float | None:
        """All stages whose time is known; None where that of a denoise step is not."""
        known = [stage.seconds for stage in self.stages if stage.seconds is not None]
        return None if self.seconds_per_step is None else sum(known)


def reserve_bytes(peak: int) -> int:
    """What a card needs beside the bytes that are counted: context, workspaces, holes between allocations."""
    return CONTEXT_BYTES + WORKSPACE_BYTES + int(FRAGMENTATION * peak)


def fits_device(nbytes: int, machine: Machine) -> bool:
    """Whether a stage that allocates `nbytes` runs under the cap of the card, reserve included."""
    return machine.on_cpu or nbytes + reserve_bytes(nbytes) <= machine.vram_bytes


def last_fitting(values: Sequence[int], fits: Callable[[int], bool]) -> int | None:
    """Index of the last value that fits, of values that fit up to some point; None where the first does not."""
    if not values or not fits(values[0]):
        return None
    low, high = 0, len(values) - 1
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fits(values[middle]) else (low, middle - 1)
    return low
