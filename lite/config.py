"""What a run is asked to do: `GenerateConfig` decides the pixels, `GenerateRequest` adds where they go.

Both are frozen and cannot be invalid: the checks sit in `__post_init__` and raise ConfigError. No torch here.
"""

from __future__ import annotations

import math
import secrets
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from ..errors import ConfigError
from .card import ModelCard
from .output.encoding import VideoEncoding
from .request.naming import state_folder_of
from .request.prompt import clean_prompt, effective_negative_prompt, require_prompt
from .request.sizes import check_frames, check_side
from .streaming.tiers import TIER_CHOICES

MAX_SEED = 2**63 - 1
PRECISIONS = ("fp32", "bf16", "fp16")
DEVICES = ("auto", "cpu", "cuda")
ON_NONFINITE_CHOICES = ("stop", "retry")
LINEAR_CHOICES = ("auto", "w8a8", "dequantize")
# What to give instead of a number that cannot be; the usual ones are those of the released 13B model.
_USUAL = {
    "height": "pixels, as in 720",
    "width": "pixels, as in 1280",
    "frames": "4k+1, as in 129",
    "steps": "50 is usual; fewer are faster",
    "seed": "a whole number from 0 to 2**63-1; left out, one is drawn",
    "fps": "24 is usual, whole numbers only",
    "guidance_scale": "6 is usual",
    "cfg_scale": "1 is off; above 1 every step takes twice as long",
    "flow_shift": "7 is usual",
    "preview_every": "a whole number of steps, as in 5",
    "threads": "left out, torch chooses",
}


@dataclass(frozen=True)
class GenerateConfig:
    """The settings that decide the video: the same config, model and arithmetic give the same latents.

    `height`, `width` in pixels (multiples of 16), `frames` 4k+1. `guidance_scale` is the embedded guidance of the
    distilled model; `cfg_scale` above 1 turns on classifier-free guidance with a negative prompt, at twice the work.
    `flow_reverse` is what the released weights need: sampling from sigma 1 to 0.
    """

    prompt: str
    height: int
    width: int
    frames: int
    steps: int
    guidance_scale: float
    flow_shift: float
    seed: int
    fps: int
    negative_prompt: str | None = None
    cfg_scale: float = 1.0
    flow_reverse: bool = True
    vae_tiling: bool = True

    def __post_init__(self) -> None:
        self._set("prompt", require_prompt(self.prompt))
        if self.negative_prompt is not None:
            self._set("negative_prompt", clean_prompt(self.negative_prompt, what="negative prompt"))
        for name in ("height", "width", "frames", "steps", "seed", "fps"):
            _check_int(name, getattr(self, name))
        for name in ("guidance_scale", "cfg_scale", "flow_shift"):
            self._set(name, _finite(name, getattr(self, name)))
        for name in ("flow_reverse", "vae_tiling"):
            if not isinstance(getattr(self, name), bool):
                raise ConfigError(f"{name} must be true or false, not {getattr(self, name)!r}", hint="as in JSON")
        self._check_ranges()

    @classmethod
    def from_card(cls, card: ModelCard, *, prompt: str, **overrides: Any) -> GenerateConfig:
        """The model's defaults with what is given instead; None means not given. Without a seed one is drawn."""
        values: dict[str, Any] = {
            "height": card.height,
            "width": card.width,
            "frames": card.frames,
            "steps": card.steps,
            "guidance_scale": card.guidance_scale,
            "flow_shift": card.flow_shift,
            "fps": card.fps,
        }
        values |= {name: value for name, value in overrides.items() if value is not None}
        if "seed" not in values:
            values["seed"] = draw_seed()
        return cls.from_json({"prompt": prompt, **values})

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> GenerateConfig:
        """The config of a JSON object with the field names above; raises ConfigError for missing or unknown ones."""
        names = [field.name for field in fields(cls)]
        required = names[: names.index("negative_prompt")]
        unknown = sorted(set(data) - set(names))
        missing = [name for name in required if name not in data]
        if unknown or missing:
            problem = f"unknown: {', '.join(unknown)}" if unknown else f"missing: {', '.join(missing)}"
            raise ConfigError(f"settings: {problem}", hint=f"the settings are {', '.join(names)}")
        return cls(**data)

    def to_json(self) -> dict[str, Any]:
        """Plain values that `from_json` takes back; the order is that of the fields."""
        return asdict(self)

    @property
    def effective_negative_prompt(self) -> str | None:
        """The text classifier-free guidance pushes away from, or None where it is off."""
        return effective_negative_prompt(self.negative_prompt, self.cfg_scale)

    @property
    def latent_shape(self) -> tuple[int, int, int, int, int]:
        """[1, 16, T, H, W] of the latents."""
        return 1, 16, (self.frames - 1) // 4 + 1, self.height // 8, self.width // 8

    def _check_ranges(self) -> None:
        check_side("height", self.height)
        check_side("width", self.width)
        check_frames(self.frames)
        _check_range("steps", self.steps, 1, 1000)
        _check_range("seed", self.seed, 0, MAX_SEED)
        _check_range("fps", self.fps, 1, 240)
        _check_range("guidance_scale", self.guidance_scale, 0, 100)
        _check_range("cfg_scale", self.cfg_scale, 1, 100)
        _check_range("flow_shift", self.flow_shift, 0.01, 1000)

    def _set(self, name: str, value: object) -> None:
        object.__setattr__(self, name, value)


@dataclass(frozen=True)
class GenerateRequest:
    """One video to make: the config, the model (None: the one that ships with hvlite) and the file.

    `resume`: True goes on from `<output>.hvlite/`, False starts anew over it, None refuses where one lies.
    `model_config`: official transformer field names and values, winning over what lies beside the weights;
    `model_config_file` is where they were read, for messages. `tier`: where the transformer's blocks are.
    `on_nonfinite`: "stop", or "retry" a step or tile that gives no numbers in fp32.
    `vram_limit_bytes`, `ram_limit_bytes`: caps, see `pipeline.load`.
    `prompt_cache`: keep the embeddings of prompts on disk, and look them up there.
    `wait`: for a graphics card that another run has, instead of refusing.
    """

    config: GenerateConfig
    output: Path
    model: Path | None = None
    dit_weight: Path | None = None
    model_config: Mapping[str, Any] | None = None
    encoding: VideoEncoding = field(default_factory=VideoEncoding)
    resume: bool | None = None
    force: bool = False
    keep_latents: bool = False
    preview_every: int | None = None
    precision: str | None = None
    device: str = "auto"
    wait: bool = True
    threads: int | None = None
    model_config_file: Path | None = None
    tier: str = "auto"
    on_nonfinite: str = "stop"
    prompt_cache: bool = True
    vram_limit_bytes: int | None = None
    ram_limit_bytes: int | None = None
    linear: str = "auto"
    attention: str = "auto"  # judged by `attention.choose_attention`

    def __post_init__(self) -> None:
        if self.force and self.resume:
            raise ConfigError("--force and --resume exclude each other", hint="--force starts anew, --resume goes on")
        if self.preview_every is not None:
            _check_int("preview_every", self.preview_every)
            _check_range("preview_every", self.preview_every, 1, 1000)
        _check_choice("tier", self.tier, TIER_CHOICES)
        _check_choice("on-nonfinite", self.on_nonfinite, ON_NONFINITE_CHOICES)
        _check_choice("linear", self.linear, LINEAR_CHOICES)
        _check_running(self.precision, self.device, self.threads)

    @property
    def state_folder(self) -> Path:
        """Where the run keeps its step checkpoints and latents until the video is finished."""
        return state_folder_of(self.output)


@dataclass(frozen=True)
class DecodeRequest:
    """One video to make from final latents on disk. `fps` None: what the latents were made with."""

    latents: Path
    output: Path
    model: Path | None = None
    dit_weight: Path | None = None
    model_config: Mapping[str, Any] | None = None
    encoding: VideoEncoding = field(default_factory=VideoEncoding)
    force: bool = False
    fps: int | None = None
    tiled: bool = True
    precision: str | None = None
    device: str = "auto"
    wait: bool = True
    threads: int | None = None
    model_config_file: Path | None = None
    on_nonfinite: str = "stop"
    vram_limit_bytes: int | None = None
    ram_limit_bytes: int | None = None

    def __post_init__(self) -> None:
        _check_choice("on-nonfinite", self.on_nonfinite, ON_NONFINITE_CHOICES)
        _check_running(self.precision, self.device, self.threads)


def draw_seed() -> int:
    """A seed nobody chose, short enough to type."""
    return secrets.randbelow(2**32)


def _check_int(name: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        raise ConfigError(f"{name} must be a whole number, not {value!r}", hint=_USUAL.get(name))


def _finite(name: str, value: object) -> float:
    try:
        number = float(value) if isinstance(value, int | float) and not isinstance(value, bool) else math.nan
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise ConfigError(f"{name} must be a finite number, not {value!r}", hint=_USUAL.get(name))
    return number


def _check_range(name: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:
        raise ConfigError(f"{name} {value}: must be from {low} to {high}", hint=_USUAL.get(name))


def _check_running(precision: str | None, device: str, threads: int | None) -> None:
    if threads is not None:
        _check_int("threads", threads)
        _check_range("threads", threads, 1, 1024)
    _check_choice("precision", precision or "fp32", PRECISIONS)
    _check_choice("device", device, DEVICES)


def _check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ConfigError(f"{name} {value!r}: not known", hint=f"one of {', '.join(choices)}")
