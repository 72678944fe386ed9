"""Videos that hvlite made, read back: frames, settings, and what already lies at an output path.

A file is opened by us and handed to one demuxer, chosen by its first bytes: FFmpeg would also open playlists, which
name other files and addresses.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

from ...errors import CheckpointError, ConfigError
from ...files import open_regular, read_limited
from ..settings import settings_from_text
from .frame_folder import SETTINGS_NAME, list_frames, read_folder_settings

if TYPE_CHECKING:
    import numpy as np
    import torch
    from av import VideoFrame
    from av.container import InputContainer
    from numpy.typing import NDArray

_PNG_LIMIT_BYTES = 256 * 2**20
_GIVE = "give an .mp4 or .mkv video, or a folder of frames that hvlite made"
_AGAIN = "copy it again, or make it again with the settings inside: hvlite rerun"


@dataclass(frozen=True)
class VideoInfo:
    """What a video is, without its pixels. `frames` are counted, not believed; `settings` None: not made by hvlite."""

    path: Path
    height: int
    width: int
    frames: int
    fps: float
    codec: str
    size_bytes: int
    settings: dict[str, Any] | None


@dataclass(frozen=True)
class Existing:
    """What lies at an output path: nothing, a finished hvlite video, a partial one, or something that is not ours."""

    kind: Literal["none", "finished", "partial", "foreign"]
    settings: dict[str, Any] | None = None
    frames: int = 0


def read_settings(path: Path | str) -> dict[str, Any]:
    """The settings inside a video, a folder of frames or its settings.json. ConfigError where there are none."""
    path = Path(path)
    if path.name == SETTINGS_NAME:
        path = path.parent
    if path.is_dir():
        found = read_folder_settings(path)
        settings = found[0] if found else None
    else:
        with _opened(path) as container:
            settings = _settings_of(container)
    if settings is None:
        raise ConfigError(f"{path} has no hvlite settings inside", hint="only a video that hvlite made carries them")
    return settings


def read_video(path: Path | str) -> tuple[torch.Tensor, float]:
    """All frames uint8 [F, H, W, 3] and the frames per second of an mp4, an mkv or a folder of frames."""
    import torch

    path = Path(path)
    if path.is_dir():
        return _read_folder(path)
    with _opened(path) as container, _decoding(path):
        pictures = [_rgb(frame) for frame in container.decode(video=0)]
        fps = float(container.streams.video[0].average_rate or 0)
    if not pictures:
        raise ConfigError(f"{path} holds no frame", hint=_GIVE)
    return torch.stack([torch.from_numpy(picture) for picture in pictures]), fps


def video_info(path: Path | str) -> VideoInfo:
    """Size, length, codec and settings of an mp4, an mkv or a folder of frames."""
    path = Path(path)
    if path.is_dir():
        return _folder_info(path)
    with _opened(path) as container, _decoding(path):
        stream = container.streams.video[0]
        return VideoInfo(
            path=path,
            height=stream.height,
            width=stream.width,
            frames=_count_frames(container),
            fps=float(stream.average_rate or 0),
            codec=stream.codec_context.name,
            size_bytes=path.stat().st_size,
            settings=_settings_of(container),
        )


def describe_existing(output: Path | str) -> Existing:
    """What writing to `output` would replace. Imports no torch; reads no pixels.

    Partial is a video of ours with fewer frames than its settings say, an empty file or an empty folder.
    """
    output = Path(output)
    if not os.path.lexists(output):
        return Existing("none")
    try:
        if _is_empty(output):
            return Existing("partial")
        info = video_info(output)
    except (ConfigError, CheckpointError, PermissionError):
        return Existing("foreign")
    if info.settings is None:
        return Existing("foreign")
    wanted = info.settings.get("frames")
    complete = not isinstance(wanted, int) or info.frames >= wanted
    return Existing("finished" if complete else "partial", info.settings, info.frames)


def _is_empty(path: Path) -> bool:
    if path.is_dir():
        return not any(path.iterdir())
    return path.is_file() and path.stat().st_size == 0


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[InputContainer]:
    """The container of a video file. CheckpointError where it cannot be read, ConfigError where it is no video."""
    import av

    if path.exists() and not path.is_file():
        raise ConfigError(f"{path} is not a file", hint=_GIVE)
    with os.fdopen(open_regular(path), "rb") as file:
        container_format = _container_format(file.read(16))
        file.seek(0)
        if container_format is None:
            raise ConfigError(f"{path} is not an mp4 or mkv video", hint=_GIVE)
        try:
            container = av.open(file, "r", format=container_format, metadata_errors="replace")
        except av.FFmpegError as error:
            raise ConfigError(f"{path} is not a readable video: {error.strerror}", hint=_GIVE) from error
        with container:
            # A damaged header may name a codec that does not exist: such a stream has no decoder.
            if not container.streams.video or getattr(container.streams.video[0], "codec_context", None) is None:
                raise ConfigError(f"{path} has no readable video inside", hint=_GIVE)
            yield container


def _rgb(frame: VideoFrame) -> NDArray[np.uint8]:
    """[H, W, 3] through the matrix and range the frame is tagged with; PyAV 16 does not look at the tags by itself."""
    from av.video.reformatter import ColorRange

    tags = {"src_colorspace": frame.colorspace, "src_color_range": frame.color_range}
    picture = frame.reformat(format="rgb24", dst_color_range=ColorRange.JPEG, **tags)
    return cast("NDArray[np.uint8]", picture.to_ndarray())


def _container_format(head: bytes) -> str | None:
    if head[4:8] == b"ftyp":
        return "mp4"
    return "matroska" if head.startswith(b"\x1a\x45\xdf\xa3") else None


@contextlib.contextmanager
def _decoding(path: Path) -> Iterator[None]:
    import av

    try:
        yield
    except av.FFmpegError as error:
        raise CheckpointError(f"{path} is damaged: {error.strerror}", hint=_AGAIN) from error


def _settings_of(container: InputContainer) -> dict[str, Any] | None:
    tags = {name.lower(): text for name, text in container.metadata.items()}  # mkv writes names in capitals
    return settings_from_text(tags.get("comment"))


def _count_frames(container: InputContainer) -> int:
    """Packets with data: the header of a partial file says one frame, that of an mkv none."""
    return sum(1 for packet in container.demux(video=0) if packet.size)


def _read_folder(folder: Path) -> tuple[torch.Tensor, float]:
    import torch

    found, frames = read_folder_settings(folder), list_frames(folder)
    if found is None or not frames:
        raise ConfigError(f"{folder} is not a folder of frames that hvlite wrote", hint=_GIVE)
    return torch.stack([torch.from_numpy(_read_png(path)) for path in frames]), found[1]


def _folder_info(folder: Path) -> VideoInfo:
    found, frames = read_folder_settings(folder), list_frames(folder)
    if found is None or not frames:
        raise ConfigError(f"{folder} is not a folder of frames that hvlite wrote", hint=_GIVE)
    height, width, _ = _read_png(frames[0]).shape
    size_bytes = sum(path.stat().st_size for path in frames)
    return VideoInfo(folder, height, width, len(frames), found[1], "png", size_bytes, found[0])


def _read_png(path: Path) -> NDArray[np.uint8]:
    import av

    decoder = av.CodecContext.create("png", "r")
    try:
        frame = decoder.decode(av.Packet(read_limited(path, _PNG_LIMIT_BYTES)))[0]
    except (av.FFmpegError, IndexError) as error:
        raise CheckpointError(f"{path} is not a readable PNG", hint=_AGAIN) from error
    return _rgb(frame)
