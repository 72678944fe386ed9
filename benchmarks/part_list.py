"""The parts of `hvlite bench`, in the order in which the whole suite runs them. Imports no torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..errors import ConfigError


@dataclass(frozen=True)
class Part:
    """A part: its module here, its share of the whole's time beside the other shares, and what it measures."""

    module: str
    share: float
    about: str
    by_default: bool = True  # part of a run that names no parts


PARTS = {
    "stream": Part("bench_stream", 4, "a step with resident and with streamed blocks"),
    "kernels": Part("bench_kernels", 3, "every operation and a block of each kind against eager PyTorch"),
    "vae": Part("bench_vae", 2, "the decode of a tile, whole and in chunks of time"),
    "generate": Part("bench_generate", 3, "whole runs: predicted and measured peaks, under caps on a card"),
    "quantize": Part("bench_quantize", 1, "a conversion against copying and hashing the same bytes"),
    "quality": Part("bench_quality", 1, "what each scheme, attention and tier costs in quality", by_default=False),
    "peers": Part("peers", 2, "the same work by diffusers and others, as ratios"),
}


def choose_parts(names: Sequence[str]) -> list[str]:
    """The parts named, each once; those of the whole suite where none is. ConfigError for a name there is not."""
    for name in names:
        if name not in PARTS:
            raise ConfigError(f"hvlite bench {name}: no such part", hint=f"parts: {', '.join(PARTS)}")
    return list(dict.fromkeys(names)) or [name for name, part in PARTS.items() if part.by_default]
