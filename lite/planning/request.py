"""From the options of `hvlite plan` to a plan: which model, which size, which machine."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...errors import ConfigError
from ...quantize.presets import PRESETS
from ..card import OFFICIAL_CARD, ModelCard, demo_root, load_card, named_model
from ..config import DEVICES
from ..plan import plan_memory
from ..request.sizes import check_frames, check_side, size_by_name
from ..streaming.tiers import TIER_CHOICES
from .caps_table import caps_plans
from .gpus import find_gpu
from .limits import parse_limit
from .machine import MemoryLimits, machine_of, on_its_kernels
from .model import plan_model
from .types import Machine, MemoryPlan, Work

MAX_STEPS = 1000


@dataclass(frozen=True, kw_only=True)
class PlanOptions:
    """What the command line says; None is not given."""

    model: str | None = None
    video_size: tuple[int, int] | None = None
    resolution: str | None = None
    aspect: str | None = None
    frames: int | None = None
    steps: int | None = None
    cfg_scale: float | None = None
    gpu: str | None = None
    vram_limit: str | None = None
    ram_limit: str | None = None
    tier: str = "auto"
    device: str = "auto"


def make_plan(options: PlanOptions) -> MemoryPlan:
    """The plan, whether it fits or not. Raises ConfigError and CheckpointError."""
    _check_choice("--tier", options.tier, TIER_CHOICES)
    _check_choice("--device", options.device, DEVICES)
    model = _model(options)
    work = _work(options, _card(model))
    machine = choose_machine(options)
    return plan_memory(plan_model(model or demo_root()), work, machine, tier=options.tier)


def make_caps_plans(options: PlanOptions) -> list[MemoryPlan]:
    """The plans of one video under falling caps. Raises ConfigError and CheckpointError."""
    model = _model(options)
    limits = MemoryLimits(ram_bytes=parse_limit("--ram-limit", options.ram_limit))
    gpu = None if options.gpu is None else find_gpu(options.gpu)
    work = _work(options, _card(model))
    machine = on_its_kernels(Machine(vram_bytes=0, ram_bytes=limits.ram, gpu=gpu))
    return caps_plans(plan_model(model or demo_root()), work, machine)


def _check_choice(option: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ConfigError(f"{option} {value}: not known", hint=f"one of {', '.join(choices)}")


def _model(options: PlanOptions) -> str | None:
    """A preset, or the path of a model; None for the one that ships."""
    if options.model in PRESETS:
        return options.model
    path = named_model(options.model)
    return None if path is None else str(path)


def _card(model: str | None) -> ModelCard:
    if model in PRESETS:
        return OFFICIAL_CARD
    if model is not None and not Path(model).exists():
        raise ConfigError(f"--model {model}: no such folder, and no preset", hint=f"presets: {', '.join(PRESETS)}")
    return load_card(None if model is None else Path(model))


def _work(options: PlanOptions, card: ModelCard) -> Work:
    if options.video_size and (options.resolution or options.aspect):
        raise ConfigError("--video-size says the size already", hint="leave --resolution and --aspect out")
    height, width = options.video_size or size_by_name(card, options.resolution, options.aspect)
    frames = card.frames if options.frames is None else options.frames
    steps = card.steps if options.steps is None else options.steps
    check_side("height", height)
    check_side("width", width)
    check_frames(frames)
    if not 1 <= steps <= MAX_STEPS:
        raise ConfigError(f"steps {steps}: must be from 1 to {MAX_STEPS}", hint="50 is usual; fewer are faster")
    guided = options.cfg_scale is not None and options.cfg_scale > 1
    return Work(height=height, width=width, frames=frames, steps=steps, guided=guided)


def choose_machine(options: PlanOptions) -> Machine:
    """The card named, else the one that is there, else (no limit given for one) the CPU."""
    limits = MemoryLimits(
        parse_limit("--vram-limit", options.vram_limit), parse_limit("--ram-limit", options.ram_limit)
    )
    if options.device == "cpu" and (limits.vram_bytes is not None or options.gpu is not None):
        raise ConfigError("--device cpu: a CPU has no --gpu and no --vram-limit", hint="--ram-limit is its limit")
    if options.gpu is not None:
        gpu = find_gpu(options.gpu)
        vram = min(gpu.memory_bytes, limits.vram_bytes or gpu.memory_bytes)
        return on_its_kernels(Machine(vram_bytes=vram, ram_bytes=limits.ram, gpu=gpu))
    if limits.vram_bytes is not None:
        return Machine(vram_bytes=limits.vram_bytes, ram_bytes=limits.ram)
    from ..device import probe_device

    return on_its_kernels(machine_of(probe_device(options.device), limits))


def plan(**options: Any) -> MemoryPlan:
    """What a video takes, before a weight is read: the fields of PlanOptions, as in plan(frames=65, gpu="RTX 4070")."""
    return make_plan(PlanOptions(**options))
