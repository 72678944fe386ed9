"""The device of a run, without a card: torch's own functions, stand-ins for what asks the driver."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from hvlite.lite.device import cap_device_memory, probe_device

GIB = 1 << 30


@pytest.fixture
def caps(monkeypatch: pytest.MonkeyPatch) -> list[tuple[float, int]]:
    """A machine with two cards of 12 GiB, the second one current; the memory fractions that the driver is given."""
    found: list[tuple[float, int]] = []
    properties = SimpleNamespace(name="a card", major=8, minor=6, total_memory=12 * GIB, uuid="1-2-3")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: properties)
    monkeypatch.setattr(torch.cuda.memory, "_lazy_init", lambda: None)
    cap = lambda *given: found.append(given)  # noqa: E731
    monkeypatch.setattr(torch._C, "_cuda_setMemoryFraction", cap, raising=False)
    return found


@pytest.mark.parametrize(("name", "index"), [("auto", 1), ("cuda", 1), ("cuda:0", 0)])
def test_a_cap_reaches_the_card_however_it_is_named(caps: list[tuple[float, int]], name: str, index: int) -> None:
    """torch's set_per_process_memory_fraction refuses a device without an index."""
    info = probe_device(name)
    assert info.device == torch.device("cuda", index)
    cap_device_memory(info, 6 * GIB)
    assert caps == [(0.5, index)]
