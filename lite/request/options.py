"""What was said on the command line of `hvlite generate`, before it is known to be right."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class GenerateOptions:
    """One field per option; None, False or the empty text where the option was left out. `preflight` judges them."""

    prompt_words: str | None = None
    prompt: str | None = None
    prompt_file: Path | None = None
    neg_prompt: str | None = None
    video_size: tuple[int, int] | None = None
    resolution: str | None = None
    aspect: str | None = None
    frames: int | None = None
    fps: int | None = None
    steps: int | None = None
    guidance: float | None = None
    cfg_scale: float | None = None
    flow_shift: float | None = None
    flow_reverse: bool = True
    seed: int | None = None
    num_videos: int = 1
    output: Path | None = None
    save_path: Path | None = None
    save_path_suffix: str = ""
    name_suffix: str = ""
    crf: int | None = None
    lossless: bool = False
    png: bool = False
    preview: bool = False
    preview_every: int | None = None
    force: bool = False
    resume: bool | None = None
    keep_latents: bool = False
    model: Path | None = None
    dit_weight: Path | None = None
    model_config: Path | None = None
    model_resolution: str | None = None
    use_fp8: bool = False
    vae_tiling: bool = True
    precision: str | None = None
    device: str = "auto"
    wait: bool = True
    threads: int | None = None
    tier: str = "auto"
    linear: str = "auto"
    attention: str = "auto"
    on_nonfinite: str = "stop"
    prompt_cache: bool = True
    vram_limit: str | None = None
    ram_limit: str | None = None


@dataclass(frozen=True)
class RerunOptions:
    """One field per option of `hvlite rerun`."""

    video: Path
    output: Path | None = None
    lossless: bool = False
    png: bool = False
    crf: int | None = None
    force: bool = False
    resume: bool | None = None
    keep_latents: bool = False
    model: Path | None = None
    dit_weight: Path | None = None
    model_config: Path | None = None
    use_fp8: bool = False
    precision: str | None = None
    device: str = "auto"
    wait: bool = True
    threads: int | None = None
    tier: str = "auto"
    linear: str = "auto"
    attention: str = "auto"
    on_nonfinite: str = "stop"
    prompt_cache: bool = True
    vram_limit: str | None = None
    ram_limit: str | None = None


@dataclass(frozen=True)
class DecodeOptions:
    """One field per option of `hvlite decode`."""

    latents: Path
    output: Path | None = None
    fps: int | None = None
    crf: int | None = None
    lossless: bool = False
    png: bool = False
    force: bool = False
    model: Path | None = None
    dit_weight: Path | None = None
    model_config: Path | None = None
    use_fp8: bool = False
    vae_tiling: bool = True
    precision: str | None = None
    device: str = "auto"
    wait: bool = True
    threads: int | None = None
    on_nonfinite: str = "stop"
    vram_limit: str | None = None
    ram_limit: str | None = None
