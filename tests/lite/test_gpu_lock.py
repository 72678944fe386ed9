"""Two runs on one card: the second waits or refuses, and names the first. Real processes, made-up cards."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from hvlite.cli import main
from hvlite.errors import DeviceBusyError, DiskError, InterruptedRunError
from hvlite.lite.device import DeviceInfo
from hvlite.lite.events import Event, Note, ignore
from hvlite.lite.interrupt import StopFlag
from hvlite.lite.launch import device_to_oneself
from hvlite.lite.state.gpu_lock import LOCK_FOLDER, GpuHolder, hold_gpu, read_holder

CARD = "GPU-1c2d/.."
HOLD = """
import sys, time
from pathlib import Path
from hvlite.lite.interrupt import StopFlag
from hvlite.lite.state.gpu_lock import hold_gpu
key, folder = sys.argv[1:]
with hold_gpu(key, "RTX", "hvlite generate cat.mp4", wait=False, stop=StopFlag(), on_event=print, folder=Path(folder)):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that has the card until its stdin is closed."""
    command = [sys.executable, "-c", HOLD, CARD, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def hold(
    folder: Path, events: list[Event], *, key: str = CARD, wait: bool = True, stop: StopFlag | None = None
) -> None:
    flag = stop or StopFlag()
    with hold_gpu(key, "RTX 3060", "hvlite bench", wait=wait, stop=flag, on_event=events.append, folder=folder):
        pass


def test_no_wait_names_the_holder_and_leaves_its_name_in_place(holder: subprocess.Popen[str], tmp_path: Path) -> None:
    for _ in range(2):
        with pytest.raises(DeviceBusyError) as caught:
            hold(tmp_path, [], wait=False)
        assert f"RTX 3060 is in use by process {holder.pid} (hvlite generate cat.mp4, since " in caught.value.message
    assert caught.value.exit_code == 75


def test_waiting_says_so_and_ends_when_the_other_ends(holder: subprocess.Popen[str], tmp_path: Path) -> None:
    assert holder.stdin is not None
    threading.Timer(0.5, holder.stdin.close).start()
    events: list[Event] = []
    hold(tmp_path, events)
    texts = [event.text for event in events if isinstance(event, Note)]
    assert len(texts) == len(events) == 2
    assert f"process {holder.pid}" in texts[0]
    assert "waiting" in texts[0]
    assert "is free" in texts[1]


def test_a_killed_holder_holds_nothing(holder: subprocess.Popen[str], tmp_path: Path) -> None:
    os.kill(holder.pid, signal.SIGKILL)
    holder.wait()
    assert str(holder.pid) in next(tmp_path.iterdir()).read_text()  # its name is still there
    events: list[Event] = []
    hold(tmp_path, events, wait=False)
    assert not events


def test_another_card_is_free(holder: subprocess.Popen[str], tmp_path: Path) -> None:
    hold(tmp_path, [], key="GPU-9", wait=False)


def test_waiting_can_be_stopped(holder: subprocess.Popen[str], tmp_path: Path) -> None:
    stop = StopFlag()
    threading.Timer(0.3, stop.request).start()
    began = time.monotonic()
    with pytest.raises(InterruptedRunError, match="waiting for the graphics card"):
        hold(tmp_path, [], stop=stop)
    assert time.monotonic() - began < 5


def test_the_file_is_for_all_users_and_a_link_is_refused(tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        hold(tmp_path, [])
    finally:
        os.umask(before)
    (lock,) = tmp_path.iterdir()
    assert lock.stat().st_mode & 0o777 == 0o666
    assert not lock.read_text()  # nobody has it
    lock.unlink()
    target = tmp_path / "victim"
    target.write_text("keep")
    lock.symlink_to(target)
    with pytest.raises(DiskError):
        hold(tmp_path, [])
    assert target.read_text() == "keep"


@pytest.mark.parametrize("words", ["", "{", "[]", '{"pid": "x"}', '{"pid": 1, "command": []}', "\xff", "[" * 900])
def test_words_that_are_not_ours_name_nobody(tmp_path: Path, words: str) -> None:
    path = tmp_path / "lock"
    path.write_text(words, encoding="latin-1")
    fd = os.open(path, os.O_RDONLY)
    try:
        assert read_holder(fd) == GpuHolder()
    finally:
        os.close(fd)
    assert "another program" in str(GpuHolder())


def test_a_run_takes_the_card_and_the_next_one_sees_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    card = DeviceInfo(torch.device("cuda"), "RTX 3060", (8, 6), 12 << 30, uuid=f"test-{os.getpid()}")
    monkeypatch.setattr("hvlite.lite.device.probe_device", lambda name: card)
    lock = LOCK_FOLDER / f"hvlite-gpu-{card.uuid}.lock"
    try:
        with device_to_oneself("auto", "generate cat.mp4", ignore, StopFlag(), wait=False):
            assert main(["generate", "a cat", "--no-wait", "--output", str(tmp_path / "dog.mp4")]) == 75
    finally:
        lock.unlink()
    assert f"RTX 3060 is in use by process {os.getpid()} (hvlite generate cat.mp4" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
