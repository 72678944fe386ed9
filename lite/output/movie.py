"""Frames into one movie file through PyAV: H.264 in mp4, or FFV1 in mkv where every bit must survive."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...files import write_error
from .encoding import VideoEncoding

if TYPE_CHECKING:
    import torch
    from av.container import OutputContainer
    from av.video.stream import VideoStream

# A fixed count, whatever the machine has: x264 writes other bytes for another number of threads.
_THREADS = 4
_BT709 = 1  # in ITU-T H.273; untagged files are read as BT.601 by some players, which is off by 40 of 255

# Each frame is a fragment of its own, flushed when the next one comes, so that a killed write keeps what it had;
# finishing makes a plain mp4 of it by rewriting the header.
_MP4_OPTIONS = {"movflags": "hybrid_fragmented+frag_every_frame", "fflags": "+bitexact"}
# A cluster a frame, flushed likewise; bitexact leaves out the random segment id.
_MKV_OPTIONS = {"cluster_time_limit": "1", "fflags": "+bitexact"}


class Movie:
    """One open movie file, on disk frame by frame. Raises DiskError as soon as the disk refuses a byte."""

    def __init__(self, path: Path, size: tuple[int, int], fps: Fraction, comment: str, encoding: VideoEncoding) -> None:
        """`size` is height, width; `comment` is stored in the file."""
        self._path, self._lossless = path, encoding.lossless
        self._file = _File(path)
        self._container = _container(self._file, comment, lossless=encoding.lossless)
        self._stream = _add_stream(self._container, size, fps, encoding)
        self._frames = 0

    def write(self, frame: torch.Tensor) -> None:
        """Add uint8 [H, W, 3]."""
        import av

        picture = av.VideoFrame.from_ndarray(frame.cpu().contiguous().numpy(), format="rgb24")
        picture = picture.reformat(**_pixels(self._stream))
        picture.pts = self._frames
        self._encode(picture)
        self._frames += 1

    def finish(self) -> None:
        """Write the end of the file and put all of it on disk."""
        self._encode(None)
        with self._file.checked():
            self._container.close()
        self._file.sync_and_close()

    def retell(self, comment: str) -> None:
        """Another comment, once finished: the same packets in a new file, which takes the name when it is on disk."""
        part = self._path.with_name(f".{secrets.token_hex(8)}.part")
        try:
            _copy(self._path, part, comment, lossless=self._lossless)
            os.replace(part, self._path)
        except OSError as error:
            raise write_error(self._path, error) from error
        finally:
            with contextlib.suppress(OSError):  # it is there only where an error is on its way
                part.unlink()

    def close(self) -> None:
        """Close, finished or not: the frames so far stay readable."""
        import av

        try:
            self._container.close()
        except (OSError, av.FFmpegError):
            pass  # of an unfinished file: the error that led here is the one to tell
        finally:
            self._file.close()

    def _encode(self, picture: Any) -> None:
        with self._file.checked():
            for packet in self._stream.encode(picture):
                self._container.mux(packet)


def _container(file: _File, comment: str, *, lossless: bool) -> OutputContainer:
    import av

    container_format, options = ("matroska", _MKV_OPTIONS) if lossless else ("mp4", _MP4_OPTIONS)
    container = av.open(file, "w", format=container_format, options=options)
    container.metadata["comment"] = comment
    return container


def _copy(source: Path, target: Path, comment: str, *, lossless: bool) -> None:
    """The packets of a finished movie of ours, as they are, into a new one. Raises DiskError."""
    import av

    file = _File(target)
    try:
        with (
            file.checked(),
            av.open(str(source), format="matroska" if lossless else "mp4") as movie,
            _container(file, comment, lossless=lossless) as container,
        ):
            stream = container.add_stream_from_template(movie.streams.video[0])
            for packet in movie.demux(video=0):
                if packet.size:
                    packet.stream = stream
                    container.mux(packet)
        file.sync_and_close()
    finally:
        file.close()


def _add_stream(
    container: OutputContainer, size: tuple[int, int], fps: Fraction, encoding: VideoEncoding
) -> VideoStream:
    if encoding.lossless:
        stream = container.add_stream("ffv1", rate=fps, options={"level": "3", "slicecrc": "1"})
        stream.pix_fmt = "bgr0"
    else:
        # zerolatency holds no frame back (x264 would hold up to 41) and costs neither quality nor size at crf 17.
        options = {"crf": str(encoding.crf), "preset": encoding.preset, "tune": "zerolatency"}
        stream = container.add_stream("libx264", rate=fps, options=options)
        stream.pix_fmt = "yuv420p"
        context = stream.codec_context
        context.colorspace = context.color_primaries = context.color_trc = context.color_range = _BT709
    stream.height, stream.width = size
    stream.codec_context.thread_count = _THREADS
    return stream


def _pixels(stream: VideoStream) -> dict[str, Any]:
    from av.video.reformatter import ColorRange, Colorspace

    if stream.pix_fmt == "bgr0":
        return {"format": "bgr0"}
    return {"format": "yuv420p", "dst_colorspace": Colorspace.ITU709, "dst_color_range": ColorRange.MPEG}


class _File:
    """What PyAV writes to: unbuffered, complete writes, and the disk's own error kept."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._error: OSError | None = None
        try:
            self._file = open(path, "xb", buffering=0)  # noqa: SIM115
        except OSError as error:
            raise write_error(path, error) from error

    def write(self, data: bytes) -> int:
        view = memoryview(data)
        try:
            while view:
                view = view[self._file.write(view) :]
        except OSError as error:
            self._error = self._error or error
            raise
        return len(data)

    def seek(self, offset: int, whence: int = 0) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    @contextlib.contextmanager
    def checked(self) -> Iterator[None]:
        """Turn a refusal of the disk into a DiskError, under whatever name FFmpeg passes it on."""
        try:
            yield
        except Exception as error:
            if self._error is None:
                raise
            raise write_error(self._path, self._error) from error

    def sync_and_close(self) -> None:
        try:
            os.fsync(self._file.fileno())
            self._file.close()
        except OSError as error:
            raise write_error(self._path, error) from error

    def close(self) -> None:
        self._file.close()
