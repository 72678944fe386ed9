"""What CudaDevice asks of CUDA, in order: recorded here by stand-ins, run for real by the tests marked gpu."""

from __future__ import annotations

from contextlib import contextmanager

import pytest
import torch

from hvlite.lite.streaming import copy_queue
from hvlite.lite.streaming.copy_queue import HAPPENED, CudaDevice


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every call that reaches CUDA, as text."""
    log: list[str] = []

    class Stream:
        def __init__(self, name: object) -> None:
            self.name = "copies" if isinstance(name, torch.device) else name

        def wait_event(self, event: Event) -> None:
            log.append(f"{self.name} waits for {event.name}")

    class Event:
        count = 0

        def __init__(self, *, blocking: bool) -> None:
            assert blocking, "a thread that waits would spin"
            Event.count += 1
            self.name = f"event {Event.count}"

        def record(self, stream: Stream) -> None:
            log.append(f"{self.name} on {stream.name}")

        def synchronize(self) -> None:
            log.append(f"host waits for {self.name}")

        def query(self) -> bool:
            return True

    @contextmanager
    def stream(chosen: Stream):
        log.append(f"enter {chosen.name}")
        yield
        log.append(f"leave {chosen.name}")

    monkeypatch.setattr(torch.cuda, "Stream", Stream)
    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "stream", stream)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: Stream("compute"))
    monkeypatch.setattr(copy_queue.CudaPageLock, "of", lambda device: None)
    for name in ("synchronize", "set_stream"):
        monkeypatch.setattr(torch.cuda, name, lambda *_: pytest.fail("nothing may wait for the whole device"))
    return log


def test_a_copy_waits_on_its_own_stream(calls):
    device = CudaDevice(torch.device("cuda", 0))
    slot, data = torch.zeros(4, dtype=torch.uint8), torch.arange(4, dtype=torch.uint8)
    free = device.release(slot)
    end = device.copy(slot, data, free)
    device.compute_after(end)
    assert calls == [
        "event 1 on compute",
        "copies waits for event 1",
        "enter copies",
        "leave copies",
        "event 2 on copies",
        "compute waits for event 2",
    ]
    assert torch.equal(slot, data)


def test_the_host_waits_for_an_event_only(calls):
    device = CudaDevice(torch.device("cuda", 0))
    end = device.copy(torch.zeros(1), torch.ones(1), HAPPENED)
    calls.clear()
    assert end.happened()
    end.wait()
    assert calls[-1].startswith("host waits for event")
    assert len(calls) == 1
