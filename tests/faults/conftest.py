"""Loads the harness that lies beside these tests, and prints at the end how much was tried."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))  # the harness's modules; its tests are no package

import pytest
from conversions import Conversion, all_conversions, make_it_fast
from scenarios import Counts

_totals: dict[str, Counts] = {}


@pytest.fixture(autouse=True)
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    make_it_fast(monkeypatch)


@pytest.fixture(scope="session")
def conversions(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Conversion]:
    """The ways to convert the tiny model that are disturbed, by name."""
    with pytest.MonkeyPatch.context() as patch:
        make_it_fast(patch)
        return all_conversions(tmp_path_factory.mktemp("conversions"))


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """A folder for the runs; it is emptied before each."""
    return tmp_path / "run"


@pytest.fixture
def tried(request: pytest.FixtureRequest) -> Counts:
    """Counts that are printed at the end under the name of the test's file."""
    return _totals.setdefault(request.path.stem.removeprefix("test_").replace("_", " "), Counts())


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    for name, counts in _totals.items():
        terminalreporter.write_line(f"{name}: {counts}")
