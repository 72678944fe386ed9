"""Which Triton is installed, and whether our kernels can be used with it. Imports neither Triton nor torch."""

from __future__ import annotations

import os
import re
import shutil
import sys
import sysconfig
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import NamedTuple

from ..errors import MissingPartError

OLDEST, FIRST_BAD = (3, 6), (3, 8)
INSTALL = 'pip install "triton>=3.6,<3.8"'


class TritonState(NamedTuple):
    """`version` is None where Triton is not installed; `reason` says why it is or is not `usable`."""

    version: str | None
    usable: bool
    reason: str


def triton_state() -> TritonState:
    """What is installed, and whether this machine has what it needs to start a kernel."""
    state = installed_triton()
    lack = missing_here() if state.usable else None
    return state if lack is None else TritonState(state.version, False, lack)


def missing_here() -> str | None:
    """What Triton needs here and does not find: it builds a small C module before its first kernel. None: nothing."""
    if not (os.environ.get("CC") or shutil.which("gcc") or shutil.which("clang")):
        return "without a C compiler, which it needs to start a kernel (sudo apt install gcc)"
    scheme = sysconfig.get_default_scheme()
    headers = sysconfig.get_path("include", "posix_prefix" if scheme == "posix_local" else scheme)
    if not Path(headers, "Python.h").is_file():
        return "without Python's headers, which it needs to start a kernel (sudo apt install python3-dev)"
    home = Path(os.environ.get("TRITON_HOME") or os.path.expanduser("~"))
    cache = Path(os.environ.get("TRITON_CACHE_DIR") or home / ".triton" / "cache").absolute()
    if not os.access(next(each for each in (cache, *cache.parents) if each.exists()), os.W_OK | os.X_OK):
        return f"without a cache that it may write: {cache} (TRITON_CACHE_DIR names another)"
    return None


def installed_triton() -> TritonState:
    """What is installed, judged by its version alone: enough to compile for cards."""
    try:
        found = version("triton")
    except PackageNotFoundError:
        why = "not installed" if sys.platform == "linux" else f"there is no Triton for {sys.platform}"
        return TritonState(None, False, f"{why}: PyTorch's own kernels are used")
    return judge_version(found)


def judge_version(found: str) -> TritonState:
    """The state of an installed version."""
    numbers = tuple(int(part) for part in re.findall(r"\d+", found)[:2])
    if numbers < OLDEST:
        return TritonState(found, False, f"older than 3.6, which our kernels need; {INSTALL}")
    if numbers >= FIRST_BAD:
        spills = "3.8 and 3.9 spill registers in matrix products on RTX 30 and 40 cards"
        return TritonState(found, False, f"newer than 3.7: {spills}; {INSTALL}")
    return TritonState(found, True, "3.6 and 3.7 are what our kernels are tested with")


def require_triton(purpose: str, state: TritonState | None = None) -> str:
    """The version of a usable Triton (None: `installed_triton`). MissingPartError with the reason otherwise."""
    installed = installed_triton()
    state = installed if state is None else state
    if state.version is None or not state.usable:
        shown = f"Triton {state.version}" if state.version else "Triton"
        hint = "--attention sdpa does without" if installed.usable else INSTALL
        raise MissingPartError(f"{purpose} needs Triton 3.6 or 3.7: {shown} is {state.reason}", hint=hint)
    return state.version
