"""Shared by all tests: one torch thread (small tensors run faster so), and the official code's recorded outputs."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported

# No test, and no process that one starts, writes to the cache of whoever runs the tests.
os.environ["HVLITE_CACHE_DIR"] = tempfile.mkdtemp(prefix="hvlite-test-cache-")

# A shell starts background jobs with SIGINT ignored, and children inherit that: the tests of Ctrl-C need the default.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

import pytest
import torch


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def no_cache_stays() -> Iterator[None]:
    yield
    shutil.rmtree(os.environ["HVLITE_CACHE_DIR"], ignore_errors=True)


@pytest.fixture(scope="session")
def golden() -> Path:
    """The folder of tiny checkpoints and outputs made by the official code."""
    return Path(__file__).parent / "data" / "golden"
