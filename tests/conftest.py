"""Shared by all tests: one torch thread (small tensors run faster so), the official code's recorded outputs, and
Triton's interpreter where there is no card.

Triton decides when it is imported, and again at each kernel's decorator, whether kernels are compiled or interpreted.
Other packages import it (diffusers does), so the choice is made here, before any of them, the same for every selection
of tests. It stays in this process: child processes, such as the ahead-of-time compiler's, find a clean environment.
"""

from __future__ import annotations

import importlib.util
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


def interpret_triton() -> None:
    """Import Triton in its interpreter mode and keep the mode for this process alone."""
    os.environ["TRITON_INTERPRET"] = "1"
    import triton
    import triton.language

    triton.knobs.propagate_env = False  # or the next line would set the variable again
    triton.knobs.runtime.interpret = True
    triton.knobs.propagate_env = True
    del os.environ["TRITON_INTERPRET"]


if importlib.util.find_spec("triton") and not torch.cuda.is_available():
    interpret_triton()


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
