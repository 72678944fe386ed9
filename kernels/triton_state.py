"""Which Triton is installed, and whether our kernels can be used with it. Imports neither Triton nor torch."""

from __future__ import annotations

import re
import sys
from importlib.metadata import PackageNotFoundError, version
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
    """What is installed, judged by its version alone."""
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


def require_triton(purpose: str) -> str:
    """The version of a usable Triton. MissingPartError with the reason where there is none."""
    state = triton_state()
    if state.version is None or not state.usable:
        shown = f"Triton {state.version}" if state.version else "Triton"
        raise MissingPartError(f"{purpose} needs Triton 3.6 or 3.7: {shown} is {state.reason}", hint=INSTALL)
    return state.version
