from __future__ import annotations

import contextlib
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from hvlite.errors import CheckpointError, ConfigError, HvliteError
from hvlite.lite.output.encoding import VideoEncoding
from hvlite.lite.output.video_read import describe_existing, read_settings, read_video, video_info
from hvlite.lite.video import write_video

SETTINGS = {"prompt": "a red circle", "seed": 1, "frames": 5}


def make(path: Path, frames: int = 5) -> Path:
    kind = {".mp4": "h264", ".mkv": "lossless", "": "png"}[path.suffix]
    picture = torch.arange(frames, dtype=torch.uint8).reshape(-1, 1, 1, 1).expand(-1, 32, 48, 3) * 20
    write_video(path, [picture], fps=8, settings=SETTINGS, encoding=VideoEncoding(kind))  # type: ignore[arg-type]
    return path


def foreign(path: Path, comment: str | None) -> Path:
    """A video of another program."""
    import av

    with av.open(str(path), "w") as container:
        if comment is not None:
            container.metadata["comment"] = comment
        stream = container.add_stream("mpeg4", rate=24)
        stream.width, stream.height = 32, 32
        for _ in range(3):
            container.mux(stream.encode(av.VideoFrame(32, 32, "yuv420p")))
        container.mux(stream.encode())
    return path


@pytest.mark.parametrize(
    "comment", [None, "holiday", '{"prompt": "a cat"}', '{"hvlite": 3}', '{"hvlite": {"a": NaN}}', "["]
)
def test_a_video_of_another_program_has_no_settings(tmp_path: Path, comment: str | None) -> None:
    path = foreign(tmp_path / "a.mp4", comment)
    with pytest.raises(ConfigError, match=r"a\.mp4 has no hvlite settings inside"):
        read_settings(path)
    assert video_info(path).settings is None
    assert describe_existing(path).kind == "foreign"
    assert read_video(path)[0].shape == (3, 32, 32, 3)


@pytest.mark.parametrize(
    "content", [b"x", b"not a video " * 100, b"\0" * 5000, b"\0\0\0\x18ftypisom", b"\x1aE\xdf\xa3", b"GIF89a"]
)
@pytest.mark.parametrize("read", [read_settings, read_video, video_info])
def test_what_is_not_a_video_is_refused(tmp_path: Path, content: bytes, read: object) -> None:
    path = tmp_path / "a.mp4"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=r"a\.mp4 is not a"):
        read(path)  # type: ignore[operator]
    assert describe_existing(path).kind == "foreign"


def test_a_playlist_is_not_followed(tmp_path: Path) -> None:
    secret = make(tmp_path / "secret.mp4")
    for name, text in (
        ("a.mp4", f"ffconcat version 1.0\nfile '{secret}'\n"),
        ("b.m3u8", f"#EXTM3U\n#EXTINF:1,\n{secret}\n#EXT-X-ENDLIST\n"),
    ):
        (tmp_path / name).write_text(text)
        with pytest.raises(ConfigError, match="is not an mp4 or mkv video"):
            video_info(tmp_path / name)


def test_what_cannot_be_opened_is_named(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.mp4")
    with pytest.raises(CheckpointError, match=r"missing\.mp4"):
        read_settings(tmp_path / "missing.mp4")
    with pytest.raises(ConfigError, match=r"pipe\.mp4 is not a file"):
        read_settings(tmp_path / "pipe.mp4")
    assert describe_existing(tmp_path / "pipe.mp4").kind == "foreign"


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_a_damaged_video_gives_a_clear_error_or_a_video(tmp_path: Path, suffix: str) -> None:
    data = make(tmp_path / f"good{suffix}").read_bytes()
    path, randomness = tmp_path / f"bad{suffix}", random.Random(0)
    for _ in range(150):
        damaged = bytearray(data[: randomness.choice([len(data), randomness.randrange(len(data))])])
        for _ in range(randomness.randrange(1, 20)):
            if damaged:
                damaged[randomness.randrange(len(damaged))] = randomness.randrange(256)
        path.write_bytes(damaged)
        describe_existing(path)
        for read in (read_settings, video_info, read_video):
            with contextlib.suppress(ConfigError, CheckpointError):
                read(path)


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "frames"])
def test_finished_and_partial_outputs_are_told_apart(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    assert describe_existing(path).kind == "none"
    existing = describe_existing(make(path))
    assert (existing.kind, existing.settings, existing.frames) == ("finished", SETTINGS, 5)
    other = make(tmp_path / f"short{path.suffix}", frames=4)
    existing = describe_existing(other)
    assert (existing.kind, existing.settings, existing.frames) == ("partial", SETTINGS, 4)


def test_a_cut_off_video_is_partial(tmp_path: Path) -> None:
    whole = make(tmp_path / "a.mkv").read_bytes()
    (tmp_path / "cut.mkv").write_bytes(whole[: len(whole) * 3 // 4])
    assert describe_existing(tmp_path / "cut.mkv").kind == "partial"


def test_links_and_other_folders_are_foreign(tmp_path: Path) -> None:
    (tmp_path / "dangling.mp4").symlink_to(tmp_path / "nowhere")
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "frame_0000.png").write_bytes(b"x")
    for name in ("dangling.mp4", "home"):
        assert describe_existing(tmp_path / name).kind == "foreign"


def test_the_settings_of_a_frame_folder_by_either_name(tmp_path: Path) -> None:
    folder = make(tmp_path / "frames")
    assert read_settings(folder) == read_settings(folder / "settings.json") == SETTINGS


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"fps": 8}', '{"fps": 0, "hvlite": {}}', '{"fps": "8", "hvlite": {}}']
)
def test_a_folder_with_other_settings_is_refused(tmp_path: Path, text: str) -> None:
    folder = make(tmp_path / "frames")
    (folder / "settings.json").write_text(text)
    with pytest.raises(ConfigError, match="has no hvlite settings"):
        read_settings(folder)
    with pytest.raises(ConfigError, match="is not a folder of frames"):
        read_video(folder)


def test_a_damaged_frame_is_named_and_a_gap_ends_the_video(tmp_path: Path) -> None:
    folder = make(tmp_path / "frames")
    (folder / "frame_0003.png").unlink()
    assert len(read_video(folder)[0]) == 3
    (folder / "frame_0002.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    with pytest.raises(HvliteError, match=r"frame_0002\.png"):
        read_video(folder)


def test_settings_are_read_without_torch(tmp_path: Path) -> None:
    path = make(tmp_path / "a.mp4")
    code = (
        "import sys; from hvlite.lite.output.video_read import describe_existing, read_settings\n"
        "from hvlite.lite.video import check_output; from hvlite.lite.state.run_state import peek_run\n"
        "assert 'av' not in sys.modules\n"
        f"assert describe_existing({str(path)!r}).kind == 'finished'; assert peek_run({str(path)!r}) is None\n"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
