"""Kernels run on the card where there is one, else in Triton's interpreter, repaired; new memory starts as NaN."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))  # the modules beside these tests, which are no package

import pytest
import torch
from poison import poison_new_memory

if torch.cuda.is_available():
    DEVICE = torch.device("cuda")
else:
    from interpreter_repair import repair_interpreter

    repair_interpreter()
    DEVICE = torch.device("cpu")


@pytest.fixture(scope="session")
def device() -> torch.device:
    """Where the kernels of these tests run: a CUDA card, or the CPU under Triton's interpreter."""
    return DEVICE


@pytest.fixture(autouse=True)
def poisoned_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a kernel does not write is NaN (or the least integer), and fails the comparison."""
    poison_new_memory(monkeypatch)
