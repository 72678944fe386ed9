"""PNG frames as an output: a folder of frame_0000.png, frame_0001.png, ... and a settings.json beside them."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...errors import CheckpointError, ConfigError
from ...files import read_json, write_atomic, write_error
from ..settings import settings_from_text
from .pictures import write_png

if TYPE_CHECKING:
    import torch

SETTINGS_NAME = "settings.json"
_FRAME_NAME = re.compile(r"frame_(\d{4,9})\.png")
_LEFTOVER_NAME = re.compile(r"\.[0-9a-f]{16}\.part")


class FrameFolder:
    """Writes frames into `folder`, one whole PNG file after the other; the settings come first."""

    def __init__(self, folder: Path, fps: float, comment: str) -> None:
        """`comment`: the settings as `settings_to_text` gives them."""
        self._folder = folder
        self._frames = 0
        try:
            folder.mkdir()
        except OSError as error:
            raise write_error(folder, error) from error
        self._fps = fps
        self.retell(comment)

    def write(self, frame: torch.Tensor) -> None:
        """Add uint8 [H, W, 3]."""
        write_png(self._folder / f"frame_{self._frames:04d}.png", frame)
        self._frames += 1

    def finish(self) -> None:
        """Nothing is left to do: every frame is on disk already."""

    def retell(self, comment: str) -> None:
        """Write the settings, over those that were there."""
        text = json.dumps({"fps": self._fps, **json.loads(comment)}, ensure_ascii=False, indent=1)
        write_atomic(self._folder / SETTINGS_NAME, text.encode("utf-8", "backslashreplace"))

    def close(self) -> None:
        """Nothing is open between two frames."""


def read_folder_settings(folder: Path) -> tuple[dict[str, Any], float] | None:
    """Settings and frames per second of a folder of frames; None where `folder` is not one that hvlite wrote."""
    try:
        value = read_json(folder / SETTINGS_NAME)
    except CheckpointError:
        return None
    settings = settings_from_text(json.dumps(value))
    fps = value.get("fps") if isinstance(value, dict) else None
    if settings is None or not isinstance(fps, int | float) or not 0 < fps < 1000:
        return None
    return settings, float(fps)


def list_frames(folder: Path) -> list[Path]:
    """The frame files of a folder in order, from frame_0000.png up to the first that is missing."""
    found = {int(match[1]): path for path in folder.iterdir() if (match := _FRAME_NAME.fullmatch(path.name))}
    return [found[index] for index in range(len(found)) if index in found]


def check_frame_folder(folder: Path) -> None:
    """ConfigError for a folder that holds anything but frames and their settings: it is never replaced."""
    strangers = sorted(path.name for path in folder.iterdir() if not _is_ours(path))
    if folder.is_symlink():
        raise ConfigError(f"{folder} is a link to a folder; it is not replaced", hint="choose another name")
    if strangers:
        raise ConfigError(
            f"{folder} is a folder with files that are not frames ({strangers[0]!r}); it is not replaced",
            hint="choose another name, or empty the folder yourself",
        )


def remove_frame_folder(folder: Path) -> None:
    """Remove a folder of frames; ConfigError, and nothing removed, for any other."""
    check_frame_folder(folder)
    try:
        for path in list(folder.iterdir()):
            path.unlink()
        folder.rmdir()
    except OSError as error:
        raise write_error(folder, error) from error


def is_leftover(path: Path) -> bool:
    """Whether this is a file that a killed process was writing crash-safely."""
    return bool(_LEFTOVER_NAME.fullmatch(path.name)) and not path.is_dir()


def _is_ours(path: Path) -> bool:
    is_frame = path.name == SETTINGS_NAME or _FRAME_NAME.fullmatch(path.name)
    return is_leftover(path) or (bool(is_frame) and not path.is_dir())
