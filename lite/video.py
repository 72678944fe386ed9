"""Frames to a file with the settings that made it: H.264 in mp4, lossless FFV1 in mkv, or a folder of PNG frames.

The file grows as `<output>.hvlite/partial.*` and takes its name when it is complete and on disk; a killed write leaves
the partial file, which plays up to the last frame. Reading back is `video_read.py`.
"""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Callable, Iterable, Mapping
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol

from ..errors import ConfigError, NonFiniteError
from ..files import fsync_dir, write_error
from .output.encoding import VideoEncoding
from .output.frame_folder import FrameFolder, check_frame_folder, remove_frame_folder
from .output.movie import Movie
from .output.video_read import describe_existing
from .request.naming import state_folder_of
from .settings import settings_to_text

if TYPE_CHECKING:
    import torch

Settings = Mapping[str, Any]


def check_output(path: Path, encoding: VideoEncoding, *, force: bool = False) -> None:
    """Refuse, with a ConfigError, a name of the wrong kind and what must not be replaced.

    A partial video is replaced; a finished or foreign one only with `force`; a folder of other files never.
    """
    encoding.check_name(path)
    is_folder = os.path.isdir(path)
    if is_folder and encoding.kind != "png":
        raise ConfigError(f"{path} is a folder, not a file", hint="choose another name")
    existing = describe_existing(path)
    if existing.kind == "foreign" and is_folder:
        raise ConfigError(f"{path} is a folder of other files; it is not replaced", hint="choose another name")
    if existing.kind in ("finished", "foreign") and not force:
        raise ConfigError(
            f"{path} exists already", hint="choose another name; --force (in Python force=True) replaces it"
        )
    if is_folder:
        check_frame_folder(path)


def write_video(
    path: Path | str,
    chunks: Iterable[torch.Tensor],
    *,
    fps: float,
    settings: Settings | Callable[[], Settings],
    encoding: VideoEncoding | None = None,
    force: bool = False,
) -> int:
    """Write chunks uint8 [n, H, W, 3] as they come; returns the number of frames. See `VideoWriter` for the errors."""
    with VideoWriter(path, fps=fps, settings=settings, encoding=encoding, force=force) as writer:
        for chunk in chunks:
            writer.write(chunk)
    return writer.frames_written


class VideoWriter:
    """An open output; leaving the `with` completes it, an exception inside leaves the frames so far in `partial`.

    Equal frames, settings and encoding give equal bytes. Raises ConfigError (output, size or frames that cannot be) and
    DiskError (full disk, no permission).
    """

    def __init__(
        self,
        path: Path | str,
        *,
        fps: float,
        settings: Settings | Callable[[], Settings],
        encoding: VideoEncoding | None = None,
        force: bool = False,
    ) -> None:
        """`settings`: plain JSON values, stored in the file; `encoding` None is H.264 at crf 17.

        Settings that tell what happens while the frames are made are given as a function: it is asked when the file is
        begun, and again when it is complete.
        """
        self.path = Path(path)
        self.encoding = encoding or VideoEncoding()
        self.frames_written = 0
        self._fps = _exact_fps(fps)
        self._settings = settings
        self._comment = self._tell()
        self._size: tuple[int, int] | None = None
        self._sink: _Sink | None = None
        check_output(self.path, self.encoding, force=force)

    @property
    def partial(self) -> Path:
        """Where the frames are until the video is complete."""
        return partial_path(self.path, self.encoding)

    def write(self, frames: torch.Tensor) -> None:
        """Add uint8 [n, H, W, 3], all of one size; even sides for H.264."""
        self._check_frames(frames)
        if self._sink is None:
            self._sink = self._open(frames.shape[1], frames.shape[2])
        for frame in frames:
            self._sink.write(frame)
            self.frames_written += 1

    def finish(self) -> None:
        """Complete the video and give it its name."""
        if self._sink is None:
            raise ConfigError(f"{self.path}: there are no frames to write")
        self._sink.finish()
        if self._tell() != self._comment:
            self._sink.retell(self._tell())
        try:
            if self.path.is_dir():
                remove_frame_folder(self.path)
            elif self.encoding.kind == "png":
                self.path.unlink(missing_ok=True)
            os.replace(self.partial, self.path)
            fsync_dir(self.path.parent)
        except OSError as error:
            raise write_error(self.path, error) from error
        with contextlib.suppress(OSError):  # a run keeps more than this file there
            self.partial.parent.rmdir()

    def __enter__(self) -> VideoWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self.finish()
        finally:
            if self._sink is not None:
                self._sink.close()

    def _check_frames(self, frames: torch.Tensor) -> None:
        import torch

        if frames.dtype != torch.uint8 or frames.ndim != 4 or frames.shape[3] != 3:
            raise ConfigError(f"frames are uint8 [n, H, W, 3]; these are {frames.dtype} {list(frames.shape)}")
        size = (frames.shape[1], frames.shape[2])
        if self._size not in (None, size):
            raise ConfigError(f"a frame of {size[0]}x{size[1]} in a video of {self._size}: all are of one size")
        self.encoding.check_size(*size)
        self._size = size

    def _tell(self) -> str:
        return settings_to_text(self._settings() if callable(self._settings) else self._settings)

    def _open(self, height: int, width: int) -> _Sink:
        self._comment = self._tell()
        try:
            self.partial.parent.mkdir(parents=True, exist_ok=True)
            if self.partial.is_dir():
                remove_frame_folder(self.partial)
            self.partial.unlink(missing_ok=True)
        except OSError as error:
            raise write_error(self.partial, error) from error
        if self.encoding.kind == "png":
            return FrameFolder(self.partial, float(self._fps), self._comment)
        return Movie(self.partial, (height, width), self._fps, self._comment, self.encoding)


class _Sink(Protocol):
    def write(self, frame: torch.Tensor) -> None: ...
    def finish(self) -> None: ...
    def retell(self, comment: str) -> None: ...
    def close(self) -> None: ...


def partial_path(output: Path, encoding: VideoEncoding) -> Path:
    """The file or folder that grows while `output` is being written."""
    return state_folder_of(output) / f"partial{encoding.suffix}"


def frames_to_uint8(video: torch.Tensor) -> torch.Tensor:
    """Decoded video [3, F, H, W] or [1, 3, F, H, W], nominally in [-1, 1], to frames uint8 [F, H, W, 3].

    clamp(v / 2 + 0.5, 0, 1), times 255, fraction cut off: as the official `save_videos_grid`. NonFiniteError for NaN or
    infinity, which the cast would turn into black.
    """
    import torch

    if video.ndim == 5 and video.shape[0] == 1:
        video = video[0]
    if video.ndim != 4 or video.shape[0] != 3:
        raise ConfigError(f"a video is [3, F, H, W] or [1, 3, F, H, W], not {list(video.shape)}")
    if not torch.isfinite(video).all():
        raise NonFiniteError("the decoded video has NaN or infinity in it", hint="the latents are kept; decode in fp32")
    levels = (video.float() / 2 + 0.5).clamp(0, 1) * 255
    return levels.to(torch.uint8).permute(1, 2, 3, 0).contiguous()


def _exact_fps(fps: float) -> Fraction:
    if not math.isfinite(fps) or not 0.1 <= fps <= 1000:
        raise ConfigError(f"fps {fps}: must be from 0.1 to 1000")
    return Fraction(fps).limit_denominator(1001)
