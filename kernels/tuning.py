"""The launch settings of every kernel on every card: one table, put together from the files of its parts."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from types import MappingProxyType

from ..errors import UnsupportedDeviceError
from . import tuning_attention, tuning_linear
from .launch import Launch
from .triton_state import installed_triton

Launches = Mapping[str, Mapping[int, Launch]]

PARTS = (tuning_attention.LAUNCHES, tuning_linear.LAUNCHES)


def launches_under(triton: str | None) -> Launches:
    """The table for an installed version of Triton: compilers differ in how many registers they need."""
    table = {kernel: entries for part in PARTS for kernel, entries in part.items()}
    if triton is not None and triton.startswith("3.6."):
        table |= {kernel: {**table[kernel], **entries} for kernel, entries in tuning_attention.LAUNCHES_36.items()}
    return MappingProxyType(table)


LAUNCHES: Launches = launches_under(installed_triton().version)


@cache
def launch_for(kernel: str, capability: int) -> Launch:
    """The settings for a compute capability such as 89 (major * 10 + minor).

    A capability that has none takes those of the nearest lower one and says so in `why`. UnsupportedDeviceError below
    the lowest; KeyError for a kernel there is not, which is a bug.
    """
    entries = LAUNCHES[kernel]
    known = max((each for each in entries if each <= capability), default=None)
    if known is None:
        raise UnsupportedDeviceError(
            f"{kernel} has no settings for compute capability {_dotted(capability)}; the lowest is "
            f"{_dotted(min(entries))}",
            hint="--attention sdpa uses PyTorch's own kernels",
        )
    found = entries[known]
    if known == capability:
        return found
    why = f"settings of {_dotted(known)}, the nearest lower one to {_dotted(capability)}: {found.why}"
    return Launch(found.tiles, found.num_warps, found.num_stages, why)


def _dotted(capability: int) -> str:
    return f"{capability // 10}.{capability % 10}"
