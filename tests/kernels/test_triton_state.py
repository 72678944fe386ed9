"""Which versions of Triton are taken, and what is said about the others."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError

import pytest

from hvlite.errors import MissingPartError
from hvlite.kernels import triton_state


@pytest.mark.parametrize(
    ("version", "usable", "reason"),
    [
        ("3.5.1", False, "older than 3.6"),
        ("3.6.0", True, "tested"),
        ("3.7.1", True, "tested"),
        ("3.7.0+git123", True, "tested"),
        ("3.8.0", False, "spill"),
        ("3.10.0", False, "spill"),
        ("4.0", False, "spill"),
    ],
)
def test_versions(version: str, usable: bool, reason: str) -> None:
    state = triton_state.judge_version(version)
    assert (state.version, state.usable) == (version, usable)
    assert reason in state.reason


def test_without_triton(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> str:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(triton_state, "version", missing)
    assert triton_state.triton_state().version is None
    with pytest.raises(MissingPartError, match=r"bench compile needs Triton 3\.6 or 3\.7: Triton is not installed"):
        triton_state.require_triton("hvlite bench compile")
