"""How frames become a file: names and limits only, no torch, no PyAV."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ...errors import ConfigError

Kind = Literal["h264", "lossless", "png"]
SUFFIXES: dict[Kind, str] = {"h264": ".mp4", "lossless": ".mkv", "png": ""}
PRESETS = ("ultrafast", "superfast", "veryfast", "faster", "fast", "medium", "slow", "slower", "veryslow")


@dataclass(frozen=True)
class VideoEncoding:
    """H.264 in mp4 at quality `crf` (0 to 51; lower is better and larger), lossless FFV1 in mkv, or a folder of PNGs.

    `preset` trades time for bytes in H.264.
    """

    kind: Kind = "h264"
    crf: int = 17
    preset: str = "medium"

    def __post_init__(self) -> None:
        if self.kind not in SUFFIXES:
            raise ConfigError(f"encoding {self.kind!r}: not known", hint=f"one of {', '.join(SUFFIXES)}")
        if type(self.crf) is not int or not 0 <= self.crf <= 51:
            raise ConfigError(
                f"crf {self.crf!r}: must be a whole number from 0 to 51", hint="17 is usual; lower is better"
            )
        if self.preset not in PRESETS:
            raise ConfigError(f"preset {self.preset!r}: not known", hint=f"one of {', '.join(PRESETS)}")

    @property
    def suffix(self) -> str:
        """The suffix of the output: ".mp4", ".mkv" or "" (a folder)."""
        return SUFFIXES[self.kind]

    @property
    def lossless(self) -> bool:
        """Whether every bit of the frames survives."""
        return self.kind != "h264"

    def check_name(self, path: Path) -> None:
        """ConfigError where the name says another kind of output than this."""
        suffix = path.suffix.lower()
        if suffix == self.suffix or (self.kind == "png" and suffix not in SUFFIXES.values()):
            return
        wanted = {"h264": "an .mp4 file", "lossless": "an .mkv file", "png": "a folder"}[self.kind]
        raise ConfigError(f"{path}: {self.kind} output is {wanted}", hint=f"name it {path.stem}{self.suffix}")

    def check_size(self, height: int, width: int) -> None:
        """ConfigError for sides that the encoder cannot take."""
        if min(height, width) < 1:
            raise ConfigError(f"a frame of {height}x{width} has no pixels", hint="sides are at least 1")
        if self.kind == "h264" and (height % 2 or width % 2):
            raise ConfigError(f"H.264 takes even sides, not {height}x{width}", hint="lossless and PNG take any size")
