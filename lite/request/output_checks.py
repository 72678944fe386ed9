"""Is the place the video goes to usable? Asked before a weight is read; nothing is written or made here."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from ...errors import ConfigError, DiskError
from ..config import GenerateConfig
from ..output.encoding import VideoEncoding
from ..video import check_output as check_video_output
from .naming import NAME_LIMIT_BYTES, RESERVED_BYTES, name_is_too_long, state_folder_of

PATH_LIMIT_BYTES = 3500  # of 4096; the working directory goes in front
SPARE_BYTES = 32 << 20
# Largest seen bytes per pixel: noise through x264 at crf 17, and raw RGB where nothing can be saved.
H264_BYTES_PER_PIXEL = 1.0
LOSSLESS_BYTES_PER_PIXEL = 3.1
LATENT_COPIES = 3  # the step checkpoint, the one being written beside it, and the finished latents


def check_output(output: Path, config: GenerateConfig, encoding: VideoEncoding, *, makes_folder: bool = False) -> None:
    """Raise ConfigError or DiskError where `output` cannot be written. `makes_folder`: its folder may be missing."""
    check_path_text(output, "--output")
    if not output.name:
        raise ConfigError(
            "--output names no file", hint="--output cat.mp4, or --save-path FOLDER, which chooses a name"
        )
    if name_is_too_long(output):
        length = len(output.name.encode("utf-8", "surrogateescape"))
        raise ConfigError(
            f"--output: the name is too long: {length} bytes",
            hint=f"at most {NAME_LIMIT_BYTES - RESERVED_BYTES} bytes; hvlite needs {RESERVED_BYTES} more beside it",
        )
    check_folder(output.parent, makes_folder=makes_folder)
    check_kind(output, encoding)
    check_video_output(output, encoding, force=True)  # its suffix; what lies there is judged in existing.py
    state = state_folder_of(output)
    if state.is_symlink() or (state.exists() and not state.is_dir()):
        raise ConfigError(f"{state} is not a folder: hvlite keeps its work there", hint="move it, or choose --output")


def check_path_text(path: Path, what: str) -> None:
    """Raise ConfigError for a path no file system or no program can name."""
    if "\0" in str(path):
        raise ConfigError(f"{what}: the path contains a NUL character", hint="remove it")
    try:
        lengths = [len(part.encode("utf-8")) for part in path.parts]
    except UnicodeEncodeError:
        raise ConfigError(f"{what}: the path is not valid UTF-8", hint="choose another name") from None
    if max(lengths, default=0) > NAME_LIMIT_BYTES or sum(lengths) > PATH_LIMIT_BYTES:
        raise ConfigError(
            f"{what}: the path is too long",
            hint=f"a name has at most {NAME_LIMIT_BYTES} bytes, a path {PATH_LIMIT_BYTES}",
        )


def check_kind(output: Path, encoding: VideoEncoding) -> None:
    """Raise ConfigError where something that is no video of this kind stands in the way."""
    if output.is_symlink() and not output.exists():
        raise ConfigError(f"{output} is a link to nothing", hint="remove it, or choose another --output")
    if not output.exists():
        return
    if output.is_dir() and encoding.kind != "png":
        raise ConfigError(f"{output} is a folder", hint=f"--save-path {output} chooses a name in it")
    if encoding.kind == "png" and not output.is_dir():
        raise ConfigError(f"{output} is a file; PNG frames go into a folder", hint="choose another --output")
    if not output.is_dir() and not output.is_file():
        raise ConfigError(f"{output} is not a regular file", hint="choose another --output")


def check_folder(folder: Path, *, makes_folder: bool) -> None:
    """Raise ConfigError or DiskError where no file can be made in `folder`."""
    existing = nearest_folder(folder)
    if not existing.is_dir():
        raise ConfigError(f"{existing} is a file, not a folder", hint="choose another --output")
    if existing != folder and not makes_folder:
        raise ConfigError(f"the folder {folder} does not exist", hint=f"mkdir -p '{folder}', or --save-path '{folder}'")
    if not os.access(existing, os.W_OK | os.X_OK):
        raise DiskError(f"the folder {existing} is not writable", hint="choose a folder you may write to")


def nearest_folder(path: Path) -> Path:
    """The path itself where it is there, else its nearest parent that is."""
    while not path.exists() and path != path.parent:
        path = path.parent
    return path


def needed_bytes(config: GenerateConfig, encoding: VideoEncoding) -> int:
    """The most that one run puts on the disk: its step checkpoints, latents and the video."""
    _, channels, latent_frames, height, width = config.latent_shape
    latents = 4 * channels * latent_frames * height * width
    pixels = config.frames * config.height * config.width
    lossless = encoding.lossless or encoding.kind == "png"
    per_pixel = LOSSLESS_BYTES_PER_PIXEL if lossless else H264_BYTES_PER_PIXEL
    return LATENT_COPIES * latents + int(pixels * per_pixel)


def check_disk(folder: Path, needed: int) -> None:
    """Raise DiskError where the disk of `folder` has less free than `needed` bytes and a little spare."""
    free = shutil.disk_usage(nearest_folder(folder)).free
    if free < needed + SPARE_BYTES:
        raise DiskError(
            f"{folder}: {_mib(free)} free, the run may need {_mib(needed + SPARE_BYTES)}",
            hint="free some space, or choose another disk with --output",
        )


def _mib(count: int) -> str:
    return f"{count / 2**20:,.0f} MiB"
