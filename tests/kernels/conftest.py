"""Kernels run on the card where there is one, else in Triton's interpreter, repaired; new memory starts as NaN."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))  # the modules beside these tests, which are no package

import pytest
import torch
from poison import poison_new_memory

from hvlite.kernels.attention_variant import AttentionVariant

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


FIRST_WITH_FP8 = (8, 9)
DECODED = "test_weights_are_decoded_exactly"  # from e4m3 to 16 bits: on every card


def takes_fp8(name: str, values: Iterable[object]) -> bool:
    """Whether a kernel makes or multiplies e4m3 codes in a test of this name with these parameters."""
    narrow = (torch.float8_e4m3fn, "e4m3")
    found = any(each.is_transposed if isinstance(each, AttentionVariant) else each in narrow for each in values)
    return found and not name.startswith(DECODED)


@pytest.fixture(autouse=True)
def card_has_fp8(request: pytest.FixtureRequest) -> None:
    """An RTX 20 or 30 has no instruction for it, and hvlite asks none of them for one."""
    spec = getattr(request.node, "callspec", None)
    has = DEVICE.type != "cuda" or torch.cuda.get_device_capability(DEVICE) >= FIRST_WITH_FP8
    if not has and spec is not None and takes_fp8(request.node.name, spec.params.values()):
        pytest.skip("this card has no fp8")


@pytest.fixture(autouse=True)
def poisoned_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a kernel does not write is NaN (or the least integer), and fails the comparison."""
    poison_new_memory(monkeypatch)
