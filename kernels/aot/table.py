"""The table of all kernels compiled ahead of time for all cards, made by worker processes. Imports no Triton."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from ...errors import HvliteError
from ...files import make_folder
from ..triton_state import require_triton

PROCESSES = 2
Row = dict[str, Any]


def compile_table(
    capabilities: Sequence[int] = (),
    only: str = "",
    *,
    modules: Sequence[str] = (),
    cache: Path | None = None,
    tell: Callable[[Row], None] = lambda row: None,
) -> list[Row]:
    """One row per kernel, launch and capability; `problem` is None where all is well. `tell` hears of each row at once.

    capabilities: of these cards alone; only: kernels whose name contains this; modules: instead of all with kernels
    (names, or paths of Python files); cache: a folder that keeps what was compiled, None for the user's own.
    MissingPartError without a usable Triton; HvliteError if a worker fails, which is a bug.
    """
    require_triton("hvlite bench compile")
    cache = cache or default_cache()
    make_folder(cache)
    shared = ["--only", only, "--cache", str(cache)]
    shared += [word for each in capabilities for word in ("--capability", str(each))]
    shared += [word for each in modules for word in ("--module", each)]
    shares = [[*shared, "--share", f"{number}/{PROCESSES}"] for number in range(PROCESSES)]
    with ThreadPoolExecutor(PROCESSES) as pool:
        found = [row for part in pool.map(lambda share: _run_worker(share, cache, tell), shares) for row in part]
    found.sort(key=lambda row: row["index"])
    return [{name: value for name, value in row.items() if name != "index"} for row in found]


def default_cache() -> Path:
    """Where the user's caches live, ours among them."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "hvlite" / "kernels"


def _run_worker(arguments: Sequence[str], cache: Path, tell: Callable[[Row], None]) -> list[Row]:
    """The rows of one worker, in its order."""
    command = [sys.executable, "-m", "hvlite.kernels.aot.worker", *arguments]
    found: list[Row] = []
    with (
        tempfile.TemporaryFile("w+") as errors,  # a pipe that nobody reads meanwhile could fill up
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True, env=_environment(cache)) as worker,
    ):
        assert worker.stdout is not None
        for line in worker.stdout:
            found.append(json.loads(line))
            tell(found[-1])
        worker.wait()
        errors.seek(0)
        said = errors.read()
    if worker.returncode:
        last = (said.strip().splitlines() or [f"exit code {worker.returncode}"])[-1]
        raise HvliteError(f"compiling kernels failed: {last}", hint="please report it")
    return found


def _environment(cache: Path) -> dict[str, str]:
    """The environment without what turns the compiler off or changes its output; its own cache is beside ours."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("TRITON_")}
    return {**kept, "TRITON_CACHE_DIR": str(cache / "triton"), "OMP_NUM_THREADS": "1"}
