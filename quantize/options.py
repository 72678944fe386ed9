"""What a conversion is asked for, what it tells while it works, and what it made."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ..errors import ConfigError
from .recipe import PARTS


@dataclass(frozen=True)
class QuantizeOptions:
    """What to convert, and how. `parts` empty: all four; `workers` None: one thread a core, at most four."""

    source: Path
    output: Path
    transformer: str = "fp8"
    text_encoder: str = "nf4"
    vae: str = "fp16"
    recipe: Path | None = None
    loras: tuple[str, ...] = ()
    parts: tuple[str, ...] = ()
    dit_weight: Path | None = None
    model_config: Mapping[str, Any] | None = None
    resume: bool = True
    force: bool = False
    workers: int | None = None

    def __post_init__(self) -> None:
        unknown = sorted(set(self.parts) - set(PARTS))
        if unknown:
            raise ConfigError(f"there is no part {unknown[0]!r}", hint=f"expected some of {', '.join(PARTS)}")
        if self.workers is not None and self.workers < 1:
            raise ConfigError(f"{self.workers} worker threads", hint="one or more; left out, one a core")


@dataclass(frozen=True)
class Progress:
    """Source bytes handled so far, of all this run has to handle; `file` is at work, done, or was done before."""

    kind: Literal["kept", "weight", "file"]
    file: str
    done_bytes: int
    total_bytes: int
    files_done: int
    files_total: int


@dataclass(frozen=True)
class QuantizeResult:
    """A finished folder: what hvlite.json and report.json say, and how many files this run wrote or found done."""

    output: Path
    manifest: Mapping[str, Any]
    report: Mapping[str, Any]
    files_written: int = 0
    files_kept: int = 0
    already_finished: bool = False
