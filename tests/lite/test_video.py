from __future__ import annotations

import errno
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from torch import Tensor

from hvlite.errors import ConfigError, DiskError, NonFiniteError
from hvlite.lite.output.encoding import VideoEncoding
from hvlite.lite.output.video_read import describe_existing, read_settings, read_video, video_info
from hvlite.lite.pipeline import Video
from hvlite.lite.video import VideoWriter, check_output, frames_to_uint8, partial_path, write_video

H264, LOSSLESS, PNG = VideoEncoding(), VideoEncoding("lossless"), VideoEncoding("png")
KINDS = pytest.mark.parametrize("encoding", [H264, LOSSLESS, PNG], ids=lambda encoding: encoding.kind)
SETTINGS = {
    "prompt": 'a "red" кот 猫 😀 e\u0301 \n\t\\ \0 = ; \u2028',
    "negative_prompt": None,
    "seed": 2**63 - 1,
    "guidance_scale": 6.0,
    "frames": 9,
    "flow_reverse": True,
}


def noise(frames: int = 9, height: int = 48, width: int = 64, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (frames, height, width, 3), generator=generator, dtype=torch.uint8)


def flat(colours: Tensor) -> Tensor:
    return colours[:, None, None, :].expand(-1, 48, 64, 3).contiguous()


def output(folder: Path, encoding: VideoEncoding, name: str = "cat") -> Path:
    return folder / f"{name}{encoding.suffix}"


def save(path: Path, frames: Tensor, encoding: VideoEncoding, *, force: bool = False) -> Path:
    write_video(path, frames.split(4), fps=24, settings=SETTINGS, encoding=encoding, force=force)
    return path


def content(path: Path) -> dict[str, bytes]:
    if path.is_dir():
        return {member.name: member.read_bytes() for member in path.iterdir()}
    return {"": path.read_bytes()}


@KINDS
def test_what_is_written_is_read_back(tmp_path: Path, encoding: VideoEncoding) -> None:
    path = save(output(tmp_path, encoding), noise(), encoding)
    frames, fps = read_video(path)
    assert (frames.shape, frames.dtype, fps) == ((9, 48, 64, 3), torch.uint8, 24.0)
    assert read_settings(path) == SETTINGS
    info = video_info(path)
    assert (info.height, info.width, info.frames, info.fps, info.settings) == (48, 64, 9, 24.0, SETTINGS)
    assert info.codec == {"h264": "h264", "lossless": "ffv1", "png": "png"}[encoding.kind]
    assert os.listdir(tmp_path) == [path.name]


@pytest.mark.parametrize("encoding", [LOSSLESS, PNG], ids=["lossless", "png"])
@pytest.mark.parametrize("size", [(48, 64), (1, 1), (17, 31)])
def test_lossless_output_keeps_every_bit(tmp_path: Path, encoding: VideoEncoding, size: tuple[int, int]) -> None:
    frames = noise(5, *size)
    frames[0], frames[1] = 0, 255
    assert torch.equal(read_video(save(output(tmp_path, encoding), frames, encoding))[0], frames)


def test_h264_colours_are_right_in_a_player_that_believes_the_tags(tmp_path: Path) -> None:
    levels = torch.tensor([0, 90, 180, 255], dtype=torch.uint8)
    colours = torch.cartesian_prod(levels, levels, levels)
    frames, _ = read_video(save(tmp_path / "a.mp4", flat(colours), H264))
    assert len(frames) == len(colours)
    error = frames.float().mean(dim=(1, 2)) - colours.float()
    assert error.abs().max() <= 3


def test_h264_quality_follows_crf(tmp_path: Path) -> None:
    smooth = torch.nn.functional.interpolate(noise(9, 6, 8).movedim(3, 1).float(), size=(96, 128), mode="bicubic")
    frames = smooth.clamp(0, 255).to(torch.uint8).movedim(1, 3).contiguous()
    sizes, errors = [], []
    for crf in (5, 17, 40):
        path = save(tmp_path / f"{crf}.mp4", frames, VideoEncoding(crf=crf))
        sizes.append(path.stat().st_size)
        errors.append(float((read_video(path)[0].float() - frames.float()).square().mean()))
    assert sizes == sorted(sizes, reverse=True)
    assert errors == sorted(errors)
    assert errors[1] < 40


@KINDS
def test_equal_input_gives_equal_bytes(tmp_path: Path, encoding: VideoEncoding) -> None:
    first = save(output(tmp_path, encoding, "first"), noise(), encoding)
    second = save(output(tmp_path, encoding, "second"), noise(), encoding)
    assert content(first) == content(second)


@pytest.mark.parametrize("fps", [1, 8, 23.976, 24, 60])
@pytest.mark.parametrize("encoding", [H264, LOSSLESS, PNG], ids=["h264", "lossless", "png"])
def test_frames_per_second(tmp_path: Path, encoding: VideoEncoding, fps: float) -> None:
    path = output(tmp_path, encoding)
    write_video(path, [noise(5)], fps=fps, settings={}, encoding=encoding)
    assert read_video(path)[1] == pytest.approx(fps, abs=0.01)


@KINDS
def test_frames_leave_as_they_come(tmp_path: Path, encoding: VideoEncoding) -> None:
    with VideoWriter(output(tmp_path, encoding), fps=24, settings=SETTINGS, encoding=encoding) as writer:
        writer.write(noise(1))
        for count in range(1, 6):
            writer.write(noise(1))
            assert video_info(writer.partial).frames >= count
        assert not writer.path.exists()
    assert video_info(writer.path).frames == 6


def boxes(data: bytes) -> list[str]:
    """The names of an mp4's outermost boxes."""
    names, position = [], 0
    while position < len(data):
        size = int.from_bytes(data[position : position + 4], "big")
        names.append(data[position + 4 : position + 8].decode("ascii"))
        position += size
    return names


def test_an_mp4_is_fragmented_while_it_grows_and_plain_when_it_is_done(tmp_path: Path) -> None:
    with VideoWriter(tmp_path / "a.mp4", fps=24, settings=SETTINGS) as writer:
        writer.write(noise())
        assert "moof" in boxes(writer.partial.read_bytes())
    assert boxes(writer.path.read_bytes()) == ["ftyp", "free", "mdat", "moov"]


@KINDS
def test_an_error_while_writing_leaves_a_readable_partial_video(tmp_path: Path, encoding: VideoEncoding) -> None:
    path = output(tmp_path, encoding)

    def chunks() -> Iterator[Tensor]:
        yield noise(6)
        raise RuntimeError("the decode failed")

    with pytest.raises(RuntimeError, match="the decode failed"):
        write_video(path, chunks(), fps=24, settings=SETTINGS, encoding=encoding)
    assert not path.exists()
    assert video_info(partial_path(path, encoding)).frames == 6
    assert read_settings(partial_path(path, encoding)) == SETTINGS
    save(path, noise(), encoding)
    assert os.listdir(tmp_path) == [path.name]


@KINDS
def test_settings_may_grow_while_the_frames_come(tmp_path: Path, encoding: VideoEncoding) -> None:
    """The same packets, so the same frames, in a file that tells the last of them."""
    told: list[str] = []
    plain = save(output(tmp_path, encoding, "plain"), noise(), encoding)

    def chunks() -> Iterator[Tensor]:
        told.append("before the first frame")
        for chunk in noise().split(4):
            yield chunk
            told.append("猫" * 1000)

    path = output(tmp_path, encoding)
    write_video(path, chunks(), fps=24, settings=lambda: {**SETTINGS, "told": list(told)}, encoding=encoding)
    assert len(told) == 4
    assert read_settings(path) == {**SETTINGS, "told": told}
    assert torch.equal(read_video(path)[0], read_video(plain)[0])
    assert read_video(path)[1] == 24
    assert sorted(os.listdir(tmp_path)) == sorted([path.name, plain.name])


def test_no_room_for_settings_that_grew(tmp_path: Path) -> None:
    path, told = tmp_path / "a.mp4", [""]
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)

    def chunks() -> Iterator[Tensor]:
        yield noise()
        told[0] = "x" * 100_000
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))

    try:
        with pytest.raises(DiskError, match=r"cannot write .*: File too large"):
            write_video(path, chunks(), fps=24, settings=lambda: {**SETTINGS, "told": told[0]})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not path.exists()
    assert [member.name for member in partial_path(path, H264).parent.iterdir()] == ["partial.mp4"]


KILLED = """
import sys, time, torch
from pathlib import Path
from hvlite.lite.output.encoding import VideoEncoding
from hvlite.lite.video import VideoWriter

folder = Path(sys.argv[1])
settings = {"seed": 5, "frames": 1000}
writers = [
    VideoWriter(folder / ("cat" + encoding.suffix), fps=24, settings=settings, encoding=encoding)
    for encoding in map(VideoEncoding, ["h264", "lossless", "png"])
]
for index in range(1000):
    for writer in writers:
        writer.write(torch.full((1, 48, 64, 3), index % 200, dtype=torch.uint8))
    print(index + 1, flush=True)
"""


def test_a_killed_write_keeps_what_it_had(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", KILLED, str(tmp_path)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for _ in range(40):
            process.stdout.readline()
        process.kill()
        reported = 40 + len(process.stdout.read().split())
    assert process.returncode == -signal.SIGKILL
    for encoding in (H264, LOSSLESS, PNG):
        path = output(tmp_path, encoding)
        assert not path.exists()
        frames, fps = read_video(partial_path(path, encoding))
        assert len(frames) >= reported - 1  # a fragment is written when the next frame comes
        assert fps == 24.0
        expected = torch.arange(len(frames)) % 200
        assert (frames.float().mean(dim=(1, 2, 3)) - expected).abs().max() <= 3
        assert read_settings(partial_path(path, encoding)) == {"seed": 5, "frames": 1000}
        save(path, noise(), encoding)  # and the next run takes its place
    assert sorted(os.listdir(tmp_path)) == ["cat", "cat.mkv", "cat.mp4"]


@contextmanager
def largest_file(limit_bytes: int) -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("encoding", [H264, LOSSLESS], ids=["h264", "lossless"])
def test_a_refusing_disk_is_a_disk_error_wherever_it_begins(tmp_path: Path, encoding: VideoEncoding) -> None:
    total = save(output(tmp_path, encoding, "whole"), noise(), encoding).stat().st_size
    limits = [*range(0, total, total // 20), total - 1]
    for limit in limits:
        path = output(tmp_path, encoding, f"at_{limit}")
        with largest_file(limit), pytest.raises(DiskError, match=r"cannot write .*partial"):
            save(path, noise(), encoding)
        assert not path.exists()
    with largest_file(8 * total):
        save(output(tmp_path, encoding, "enough"), noise(), encoding)


def test_a_disk_error_leaves_the_video_that_was_there(tmp_path: Path) -> None:
    path = save(tmp_path / "a.mp4", noise(seed=1), H264)
    before = content(path)
    with largest_file(2000), pytest.raises(DiskError):
        save(path, noise(seed=2), H264, force=True)
    assert content(path) == before


def test_a_failing_rename_leaves_both_videos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save(tmp_path / "a.mp4", noise(seed=1), H264)
    before = content(path)

    def refuse(source: Path, target: Path) -> None:
        raise OSError(errno.EIO, "the disk failed")

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(DiskError, match="the disk failed"):
        save(path, noise(seed=2), H264, force=True)
    assert content(path) == before
    assert video_info(partial_path(path, H264)).frames == 9


@KINDS
def test_a_video_gets_its_name_when_it_is_on_disk(
    tmp_path: Path, encoding: VideoEncoding, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, calls = output(tmp_path, encoding), []
    fsync, replace = os.fsync, os.replace

    def recorded_fsync(fd: int) -> None:
        calls.append(("fsync", os.readlink(f"/proc/self/fd/{fd}")))
        fsync(fd)

    def recorded_replace(source: Path, target: Path) -> None:
        calls.append(("replace", str(target)))
        replace(source, target)

    monkeypatch.setattr(os, "fsync", recorded_fsync)
    monkeypatch.setattr(os, "replace", recorded_replace)
    save(path, noise(), encoding)
    assert calls[-3:] == [
        ("fsync", str(partial_path(path, encoding))),
        ("replace", str(path)),
        ("fsync", str(tmp_path)),
    ]


def test_a_folder_without_permission_or_a_file_in_the_way_is_a_disk_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(DiskError, match="cannot write"):
        save(tmp_path / "file" / "a.mp4", noise(), H264)
    with pytest.raises(DiskError, match="cannot write"):
        save(tmp_path / ("x" * 300 + ".mp4"), noise(), H264)


@KINDS
def test_what_exists_is_replaced_only_with_force(tmp_path: Path, encoding: VideoEncoding) -> None:
    path = save(output(tmp_path, encoding), noise(seed=1), encoding)
    before = content(path)
    with pytest.raises(ConfigError, match="exists already"):
        save(path, noise(seed=2), encoding)
    assert content(path) == before
    save(path, noise(seed=2), encoding, force=True)
    assert content(path) != before
    assert os.listdir(tmp_path) == [path.name]


@KINDS
def test_a_partial_or_empty_output_is_replaced_without_force(tmp_path: Path, encoding: VideoEncoding) -> None:
    path = output(tmp_path, encoding)
    write_video(path, [noise(5)], fps=24, settings=SETTINGS, encoding=encoding)  # SETTINGS say nine frames
    assert describe_existing(path).kind == "partial"
    save(path, noise(), encoding)
    assert describe_existing(path).kind == "finished"
    empty = output(tmp_path, encoding, "empty")
    empty.mkdir() if encoding is PNG else empty.touch()
    save(empty, noise(), encoding)
    assert video_info(empty).frames == 9


def test_folders_of_other_files_are_never_replaced(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    (home / "thesis.tex").write_text("years of work")
    frames = save(tmp_path / "frames", noise(), PNG)
    (frames / "notes.txt").write_text("mine")
    link = tmp_path / "link"
    link.symlink_to(save(tmp_path / "linked", noise(), PNG))
    for path in (home, frames, link):
        with pytest.raises(ConfigError, match="is not replaced"):
            save(path, noise(seed=2), PNG, force=True)
    assert (home / "thesis.tex").exists()
    assert torch.equal(read_video(frames)[0], noise())
    assert torch.equal(read_video(link)[0], noise())
    with pytest.raises(ConfigError, match="is a folder"):
        check_output(_folder(tmp_path / "dir.mp4"), H264, force=True)


def _folder(path: Path) -> Path:
    path.mkdir()
    return path


def test_a_file_becomes_a_folder_only_with_force(tmp_path: Path) -> None:
    path = tmp_path / "frames"
    path.write_text("a file")
    with pytest.raises(ConfigError, match="exists already"):
        save(path, noise(), PNG)
    save(path, noise(), PNG, force=True)
    assert torch.equal(read_video(path)[0], noise())


def test_a_video_in_python_says_what_it_is_and_how_to_replace_a_file(tmp_path: Path) -> None:
    video = Video(torch.zeros(5, 32, 48, 3, dtype=torch.uint8), {"prompt": "a red circle", "fps": 8})
    assert repr(video) == "<Video: 5 frames of 32x48, 'a red circle'>"
    path = video.save(tmp_path / "a.mp4")
    with pytest.raises(ConfigError, match=r"in Python force=True"):
        video.save(path)
    assert video.save(path, force=True) == path


@pytest.mark.parametrize(
    ("name", "encoding", "message"),
    [
        ("cat.gif", H264, "is an .mp4 file"),
        ("cat", H264, "is an .mp4 file"),
        ("cat.mkv", H264, "is an .mp4 file"),
        ("cat.mp4", LOSSLESS, "is an .mkv file"),
        ("cat.mp4", PNG, "is a folder"),
    ],
)
def test_a_name_of_another_kind_is_refused(tmp_path: Path, name: str, encoding: VideoEncoding, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        save(tmp_path / name, noise(), encoding)
    assert not os.listdir(tmp_path)


@pytest.mark.parametrize(
    ("frames", "message"),
    [
        (noise(2, 47, 64), "even sides"),
        (noise(2, 48, 63), "even sides"),
        (noise(2, 0, 64), "no pixels"),
        (noise(2).float(), "uint8"),
        (noise(2)[0], "uint8"),
        (noise(2).movedim(3, 1), "uint8"),
    ],
)
def test_frames_that_cannot_be_are_refused(tmp_path: Path, frames: Tensor, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        write_video(tmp_path / "a.mp4", [frames], fps=24, settings={})
    assert not os.listdir(tmp_path)


def test_frames_of_two_sizes_and_no_frames_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="all are of one size"):
        write_video(tmp_path / "a.mp4", [noise(1), noise(1, 64, 64)], fps=24, settings={})
    with pytest.raises(ConfigError, match="no frames"):
        write_video(tmp_path / "b.mp4", [], fps=24, settings={})


@pytest.mark.parametrize("fps", [0, -1, float("nan"), float("inf"), 1e6])
def test_impossible_frame_rates_are_refused(tmp_path: Path, fps: float) -> None:
    with pytest.raises(ConfigError, match="fps"):
        write_video(tmp_path / "a.mp4", [noise(1)], fps=fps, settings={})


@pytest.mark.parametrize("value", [object(), float("nan"), {1, 2}])
def test_settings_that_are_not_json_are_refused_before_anything_is_written(tmp_path: Path, value: object) -> None:
    with pytest.raises(ConfigError, match="not plain JSON"):
        write_video(tmp_path / "a.mp4", [noise(1)], fps=24, settings={"x": value})
    assert not os.listdir(tmp_path)


@pytest.mark.parametrize("arguments", [{"kind": "gif"}, {"crf": -1}, {"crf": 52}, {"crf": True}, {"preset": "warp"}])
def test_encodings_that_do_not_exist_are_refused(arguments: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        VideoEncoding(**arguments)  # type: ignore[arg-type]


@KINDS
def test_a_long_prompt_and_a_lone_surrogate_survive(tmp_path: Path, encoding: VideoEncoding) -> None:
    settings = {"prompt": "很长 " * 50_000, "odd": "\udc80"}
    path = output(tmp_path, encoding)
    write_video(path, [noise(1)], fps=24, settings=settings, encoding=encoding)
    assert read_settings(path) == settings


def test_frames_to_uint8_truncates_like_the_official_writer() -> None:
    values = torch.tensor([-1.5, -1.0, -0.999, 0.0, 0.5, 0.996, 1.0, 7.0])
    video = values.reshape(1, 8, 1, 1).expand(3, 8, 2, 4)
    expected = torch.tensor([0, 0, 0, 127, 191, 254, 255, 255], dtype=torch.uint8)
    frames = frames_to_uint8(video)
    assert (frames.shape, frames.dtype) == ((8, 2, 4, 3), torch.uint8)
    assert torch.equal(frames[:, 1, 3, 2], expected)
    assert torch.equal(frames_to_uint8(video[None]), frames)
    assert torch.equal(frames_to_uint8(video.to(torch.bfloat16))[[0, 1, 3, 7], 0, 0, 0], expected[[0, 1, 3, 7]])


def test_frames_to_uint8_keeps_axes_apart() -> None:
    video = torch.linspace(-1, 1, 3 * 2 * 4 * 6).reshape(3, 2, 4, 6)
    frames = frames_to_uint8(video)
    assert frames[1, 2, 5, 0] == int((video[0, 1, 2, 5] / 2 + 0.5) * 255)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_frames_to_uint8_refuses_non_finite_pixels(value: float) -> None:
    video = torch.zeros(3, 2, 4, 4)
    video[1, 1, 2, 3] = value
    with pytest.raises(NonFiniteError):
        frames_to_uint8(video)


@pytest.mark.parametrize("shape", [(2, 3, 1, 4, 4), (1, 4, 4), (4, 1, 4, 4)])
def test_frames_to_uint8_refuses_other_shapes(shape: tuple[int, ...]) -> None:
    with pytest.raises(ConfigError):
        frames_to_uint8(torch.zeros(shape))
