"""Which versions of Triton are taken, and what is said about the others."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError
from pathlib import Path

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


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A machine with a good Triton, without a compiler; the folder of Python's headers, which is empty."""
    monkeypatch.setattr(triton_state, "version", lambda name: "3.7.1")
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setattr(triton_state.sysconfig, "get_path", lambda *_: str(tmp_path))
    return tmp_path


def test_triton_without_a_compiler_is_not_used(machine: Path) -> None:
    """A fresh Ubuntu or WSL has none: every run on a card would end at its first kernel."""
    state = triton_state.triton_state()
    assert not state.usable
    assert "apt install gcc" in state.reason
    with pytest.raises(MissingPartError, match=r"--attention hvlite needs .*Triton 3\.7\.1 is without a C compiler"):
        triton_state.require_triton("--attention hvlite", state)
    assert triton_state.require_triton("hvlite bench compile") == "3.7.1", "which starts no kernel"


def test_triton_without_headers_is_not_used(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CC", "/usr/bin/cc")
    assert "python3-dev" in triton_state.triton_state().reason
    (machine / "Python.h").touch()
    assert triton_state.triton_state().usable


def test_triton_without_a_cache_is_not_used(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The home of a service, or of a container's user, may be read-only or not exist."""
    monkeypatch.setenv("CC", "/usr/bin/cc")
    (machine / "Python.h").touch()
    monkeypatch.setattr(triton_state.os, "access", lambda path, mode: path != machine)
    monkeypatch.setenv("TRITON_CACHE_DIR", str(machine / "not" / "there"))
    state = triton_state.triton_state()
    assert not state.usable
    assert f"{machine}/not/there" in state.reason
