"""Disks that are really full, and files that really may not grow: no simulation stands between."""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from conversions import Conversion
from generations import STEPS, OnEvent, Undisturbed, after_step, before_decode, generate, state_of
from scenarios import Counts, differences, fresh, quiet_fork, read_tree, write_tree

from hvlite.errors import DiskError

DISK_ERROR, FINISHED, SURPRISE = 4, 0, 70


def _unshare_works(folder: Path) -> bool:
    command = ["unshare", "-rm", "mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)]
    return (
        shutil.which("unshare") is not None
        and subprocess.run(command, capture_output=True, check=False).returncode == 0
    )


@pytest.mark.slow
def test_disks_of_every_size(conversions: dict[str, Conversion], tmp_path: Path, tried: Counts) -> None:
    point, wanted = tmp_path / "disk", tmp_path / "wanted"
    point.mkdir()
    if not _unshare_works(point):
        pytest.skip("needs user and mount namespaces (unshare -rm)")
    write_tree(wanted, conversions["new"].wanted)
    found = _in_a_namespace("small_disk.py", conversions["new"].source, point, wanted)
    for _ in range(found["full"]):
        tried.add("tmpfs", [])
    assert found["full"] >= 20
    assert found["wrong"] == []


@pytest.mark.slow
def test_a_disk_that_fills_while_a_video_is_made(tmp_path: Path, tried: Counts) -> None:
    """A real one, full at each moment at which a run saves something; each time the next run goes on from there."""
    point, folder = tmp_path / "disk", tmp_path / "whole"
    point.mkdir()
    folder.mkdir()
    if not _unshare_works(point):
        pytest.skip("needs user and mount namespaces (unshare -rm)")
    found = _in_a_namespace("small_disk_generate.py", point, folder)
    for _ in range(found["step"] + found["video"]):
        tried.add("tmpfs, generate", [])
    assert found["step"] == 4 * (STEPS + 1)
    assert found["video"] >= 2
    assert found["wrong"] == []


def _in_a_namespace(script: str, *arguments: Path) -> dict[str, Any]:
    """What a script beside this file prints, run where it may mount."""
    program = [sys.executable, Path(__file__).with_name(script), *arguments]
    done = subprocess.run(["unshare", "-rm", *map(str, program)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize("limit", [0, 1, 8, 100, 1000, 2000, 4000, 8000, 12000, 20000, 30000])
def test_files_that_may_not_grow(conversions: dict[str, Conversion], base: Path, limit: int, tried: Counts) -> None:
    """EFBIG from the kernel, in a process of its own: a typed error, and the next run makes up for it."""
    conversion = conversions["new"]
    folder = fresh(conversion, base)
    child = quiet_fork()
    if child == 0:
        os._exit(_run_limited(conversion, folder, limit))
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == DISK_ERROR
    tried.add("file size limit", conversion.broken_rules(folder))
    conversion.run(folder)
    assert differences(read_tree(folder / "out"), conversion.wanted) == []


def _run_limited(conversion: Conversion, folder: Path, limit: int) -> int:
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
    try:
        conversion.run(folder)
    except DiskError:
        return DISK_ERROR
    except BaseException:  # noqa: BLE001 - anything else is a surprise
        return SURPRISE
    return FINISHED


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Undisturbed:
    return Undisturbed(tmp_path_factory.mktemp("whole"))


@pytest.fixture
def no_room() -> Iterator[Callable[[int], Callable[[], None]]]:
    """no_room(nbytes)(): from now on no file grows beyond so many bytes. The kernel says EFBIG, on any machine."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)

    def limit(nbytes: int) -> Callable[[], None]:
        return lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (nbytes, hard))

    yield limit
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def _stopped(whole: Undisturbed, output: Path, on_event: OnEvent, kept: str, steps: int) -> list[str]:
    """What is wrong after a run that the disk stops, and after the one that goes on once it takes files again.

    `steps`: how many are done when it is stopped.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    told = generate(output, on_event=on_event)
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    wrong = whole.broken_rules(output, told, kept)
    again = generate(output, "--resume")
    wrong += [] if again.code == 0 else again.errors
    redone = [event["index"] for event in again.events if event["event"] == "step_done" and event["stage"] == "denoise"]
    wrong += [] if redone == list(range(steps + 1, STEPS + 1)) else [f"steps {redone} were made by the second run"]
    wrong += [] if output.read_bytes() == whole.video else ["the video has other bytes than one never stopped"]
    return wrong + [f"{path} was left" for path in [state_of(output)] if path.exists()]


@pytest.mark.parametrize(("step", "nbytes"), [(0, 5000), (STEPS - 1, 0), (STEPS, 5000)])
def test_no_room_for_the_latents(whole, no_room, tmp_path, step, nbytes, tried):
    """Of step `step` + 1, or for the final ones; from the first byte, or from another on."""
    kept = f"step {step}" if step else "nothing"
    wrong = _stopped(whole, tmp_path / "cat.mp4", after_step(step, no_room(nbytes)), kept, step)
    tried.add("file size limit, generate", wrong)
    assert wrong == []


@pytest.mark.parametrize("share", [0.1, 0.9])
def test_no_room_for_the_video(whole, no_room, tmp_path, share, tried):
    limit = no_room(int(share * len(whole.video)))
    wrong = _stopped(whole, tmp_path / "cat.mp4", before_decode(limit), "latents", STEPS)
    tried.add("file size limit, generate", wrong)
    assert wrong == []
