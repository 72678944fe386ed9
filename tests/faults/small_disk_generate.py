"""Makes a video on a real file system that fills up again and again: at every moment at which a run saves something,
with every number of pages left. Run by `test_full_disk` as a program of its own, in a mount namespace of its own:
unshare -rm python small_disk_generate.py MOUNT_POINT FOLDER
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import torch
from generations import STEPS, OnEvent, Undisturbed, after_step, before_decode, generate, state_of, when

PAGE_BYTES = 4096
ROOM_BYTES = 96 << 20  # with less the run would be refused before it writes
MOST_PAGES = 64


class Disk:
    """A tmpfs whose free pages can be taken away."""

    def __init__(self, point: Path) -> None:
        self._ballast, self._point = point / "ballast", point
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={ROOM_BYTES}", "tmpfs", point], check=True)

    def fill(self, left: int) -> None:
        """Leave so many pages."""
        room = os.statvfs(self._point)
        with self._ballast.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, room.f_bavail * room.f_bsize - left * PAGE_BYTES)

    def give_back(self) -> None:
        self._ballast.unlink()


def main() -> None:
    point, folder = map(Path, sys.argv[1:])
    torch.set_num_threads(1)
    wanted = Undisturbed(folder)
    disk, output, wrong = Disk(point), point / "cat.mp4", []
    counts = {"step": 0, "video": 0}

    def is_enough(on_event: OnEvent, kind: str, kept: str, left: int) -> bool:
        """Whether the run got by with what was left; if not, all rules are looked at."""
        told = generate(output, "--resume", on_event=on_event)
        if told.code == 0:
            return True
        found = wanted.broken_rules(output, told, kept)
        wrong.extend(f"{kept}, {left} pages left: {line}" for line in found)
        counts[kind] += 1
        disk.give_back()
        return False

    for step in range(STEPS + 1):  # after the last step: the final latents cannot be saved
        kept = f"step {step}" if step else "nothing"
        assert not is_enough(after_step(step, partial(disk.fill, 0)), "step", kept, 0)
        for left in (1, 2, 3):  # of four pages that the latents of a step take; the run goes on with that step at once
            assert not is_enough(when(partial(disk.fill, left), event="planned"), "step", kept, left)
    for left in range(MOST_PAGES):
        if is_enough(before_decode(partial(disk.fill, left)), "video", "latents", left):
            break
    wrong += [] if output.read_bytes() == wanted.video else ["the video has other bytes than one never stopped"]
    wrong += [f"{path} was left" for path in [state_of(output)] if path.exists()]
    print(json.dumps({**counts, "wrong": wrong}))


if __name__ == "__main__":
    main()
