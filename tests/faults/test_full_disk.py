"""Disks that are really full, and files that really may not grow: no simulation stands between."""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conversions import Conversion
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
    script, source = Path(__file__).with_name("small_disk.py"), conversions["new"].source
    program = [sys.executable, str(script), str(source), str(point), str(wanted)]
    done = subprocess.run(["unshare", "-rm", *program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    for _ in range(found["full"]):
        tried.add("tmpfs", [])
    assert found["full"] >= 20
    assert found["wrong"] == []


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
