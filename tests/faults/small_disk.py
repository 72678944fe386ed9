"""Converts onto real file systems that are too small, one size after the other. Run by `test_full_disk` as a program of
its own, in a mount namespace of its own:  unshare -rm python small_disk.py SOURCE MOUNT_POINT WANTED
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections import namedtuple
from pathlib import Path

import pytest
from conversions import Conversion, make_it_fast
from scenarios import Tree, read_tree

from hvlite.errors import DiskError

PAGE_BYTES = 4096
Usage = namedtuple("Usage", "total used free")


def mount(point: Path, nbytes: int) -> None:
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={nbytes}", "tmpfs", point], check=True)


def convert_onto(conversion: Conversion, point: Path, nbytes: int) -> tuple[bool, list[str]]:
    """Whether the disk was too small, and what went wrong: then, or after it was made larger."""
    mount(point, nbytes)
    try:
        conversion.run(point)
        full = False
    except DiskError:
        full = True
    wrong = conversion.broken_rules(point)
    before: Tree = read_tree(point)
    subprocess.run(["mount", "-o", f"remount,size={64 << 20}", point], check=True)
    result = conversion.run(point)
    wrong += conversion.unfinished(point, before, result)
    subprocess.run(["umount", point], check=True)
    return full, [f"{nbytes} bytes: {line}" for line in wrong]


def main() -> None:
    patch = pytest.MonkeyPatch()
    make_it_fast(patch)
    source, point, wanted = map(Path, sys.argv[1:])
    conversion = Conversion("small disk", source, read_tree(wanted))
    needed = sum(-(-len(content) // PAGE_BYTES) + 1 for content in conversion.wanted.values())
    endless = Usage(1 << 60, 0, 1 << 60)  # or the run would be refused before it writes
    patch.setattr(shutil, "disk_usage", lambda path: endless)
    found = [convert_onto(conversion, point, pages * PAGE_BYTES) for pages in range(2, needed + 12)]
    print(json.dumps({"full": sum(full for full, _ in found), "wrong": [line for _, lines in found for line in lines]}))


if __name__ == "__main__":
    main()
