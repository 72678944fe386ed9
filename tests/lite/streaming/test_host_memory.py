"""Host memory of exact size: page-locked within a limit, pageable and said so where the system refuses."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch

from hvlite.lite.events import Note, ignore
from hvlite.lite.streaming.block_files import open_block_files
from hvlite.lite.streaming.copy_queue import CpuDevice, Event
from hvlite.lite.streaming.host_memory import CudaPageLock, HostBuffer, HostMemory, bytes_of
from hvlite.lite.streaming.streamed_blocks import StreamOptions
from hvlite.lite.streaming.streamed_transformer import open_streamed_transformer
from hvlite.lite.streaming.tiers import TierCounts, spread_tiers
from hvlite.quantize.format import open_hvlite_transformer

OUT_OF_MEMORY = 2


class Runtime:
    """Page-locks `grants` times, and keeps its last error until a launch reports it, as CUDA does."""

    def __init__(self, grants: int) -> None:
        self.grants = grants
        self.locked: dict[int, int] = {}
        self.asked = 0
        self.last_error = 0

    def cudaHostRegister(self, address: int, nbytes: int, flags: int) -> int:
        self.asked += 1
        if self.asked > self.grants:
            self.last_error = OUT_OF_MEMORY
            return OUT_OF_MEMORY
        self.locked[address] = nbytes
        return 0

    def cudaHostUnregister(self, address: int) -> int:
        del self.locked[address]
        return 0

    def launch(self) -> None:
        error, self.last_error = self.last_error, 0
        if error:
            raise RuntimeError("CUDA error: out of memory")


class Device(CpuDevice):
    def __init__(self, runtime: Runtime) -> None:
        self.page_lock = CudaPageLock(runtime, runtime.launch)


@pytest.mark.parametrize("nbytes", [1, 4095, 4096, 226_492_416])
def test_buffers_have_their_exact_size(nbytes):
    buffer = HostBuffer(nbytes)
    assert buffer.tensor.numel() == nbytes
    assert buffer.tensor.data_ptr() % 4096 == 0
    buffer.tensor[-1] = 7
    assert bytes_of(buffer.tensor)[nbytes - 1] == 7
    buffer.close()


def test_a_closed_buffer_gives_its_memory_back():
    buffer = HostBuffer(1 << 20)
    storage = weakref.ref(buffer.tensor.untyped_storage())
    buffer.close()
    gc.collect()
    assert storage() is None


def test_a_forgotten_buffer_is_unlocked():
    runtime = Runtime(grants=1)
    buffer = HostBuffer(100)
    assert buffer.pin(CudaPageLock(runtime, runtime.launch)) is None
    assert runtime.locked == {buffer.tensor.data_ptr(): 100}
    del buffer
    assert not runtime.locked


def test_a_refused_page_lock_poisons_nothing():
    """The error stays in the runtime until a launch meets it: it must be one of ours, not the next kernel's."""
    runtime = Runtime(grants=0)
    lock = CudaPageLock(runtime, runtime.launch)
    assert lock.register(4096, 100) == "CUDA error 2"
    runtime.launch()


def test_a_device_that_is_truly_broken_is_not_passed_over():
    def broken() -> None:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    with pytest.raises(RuntimeError, match="illegal"):
        CudaPageLock(Runtime(grants=0), broken).register(4096, 100)


def test_the_limit_holds():
    runtime, notes = Runtime(grants=100), []
    memory = HostMemory(CudaPageLock(runtime, runtime.launch), 1000, notes.append)
    buffers = [memory.allocate(400) for _ in range(4)]
    assert [buffer.pinned for buffer in buffers] == [True, True, False, False]
    assert sum(runtime.locked.values()) == 800
    memory.free(buffers[:1])
    assert memory.allocate(500).pinned
    memory.close()
    assert not runtime.locked
    assert not notes


@pytest.mark.parametrize("grants", [0, 1, 2, 3, 4, 5, 7, 8])
def test_a_refusal_at_any_call(folder, latents_of, grants):
    """Two for loading, a ring of two, four kept blocks: the run goes on pageable, says so once, ends the same."""
    runtime, notes = Runtime(grants), []
    transformer = open_streamed_transformer(
        folder("fp8"),
        torch.device("cpu"),
        torch.float32,
        tiers=TierCounts(2, 4, 2),
        options=StreamOptions(ring=2),
        queue=Device(runtime),
        on_event=notes.append,
    )
    runtime.launch()
    assert len(runtime.locked) == max(0, grants - 2)
    assert [note.level for note in notes] == ["warning"] * (grants < 8)
    assert all(isinstance(note, Note) and "page-lock" in note.text for note in notes)
    resident = open_streamed_transformer(folder("fp8"), torch.device("cpu"), torch.float32, on_event=ignore)
    assert torch.equal(latents_of(transformer)[-1], latents_of(resident)[-1])
    transformer.close()
    assert not runtime.locked


def test_a_failure_while_loading_unlocks_everything(folder, monkeypatch):
    runtime = Runtime(grants=4)
    monkeypatch.setattr("hvlite.lite.streaming.streamed_blocks.make_shell", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        open_streamed_transformer(
            folder("fp8"), torch.device("cpu"), torch.float32, tiers=TierCounts(2, 4, 2), queue=Device(runtime)
        )
    assert not runtime.locked


class FullDevice(CpuDevice):
    """Has room for three blocks. Its copies end when they are waited for, and not while their source is unlocked."""

    def __init__(self, runtime: Runtime) -> None:
        self.page_lock = CudaPageLock(runtime, runtime.launch)
        self.runtime, self.allocated = runtime, 0
        self.under_way: set[int] = set()

    def allocate(self, nbytes: int) -> torch.Tensor:
        self.allocated += 1
        if self.allocated > 3:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return super().allocate(nbytes)

    def copy(self, target: torch.Tensor, source: torch.Tensor, after: Event) -> Event:
        return Copy(self, source.data_ptr())


class Copy:
    def __init__(self, device: FullDevice, address: int) -> None:
        self.device, self.address = device, address
        device.under_way.add(address)

    def happened(self) -> bool:
        return self.address not in self.device.under_way

    def wait(self) -> None:
        assert self.address in self.device.runtime.locked
        self.device.under_way.discard(self.address)


def test_a_full_device_ends_no_copy_under_way(folder):
    """The block after those that fit is refused while copies run: their memory, on both sides, must outlive them."""
    runtime = Runtime(grants=100)
    device = FullDevice(runtime)
    with pytest.raises(torch.OutOfMemoryError):
        open_streamed_transformer(folder("fp8"), torch.device("cpu"), torch.float32, queue=device)
    assert not device.under_way
    assert not runtime.locked


class CountingDevice(CpuDevice):
    def __init__(self) -> None:
        self.allocated: list[int] = []

    def allocate(self, nbytes: int) -> torch.Tensor:
        self.allocated.append(nbytes)
        return super().allocate(nbytes)


@pytest.mark.parametrize("mix", [(8, 0, 0), (0, 8, 0), (0, 0, 8), (3, 2, 3), (7, 0, 1)])
@pytest.mark.parametrize(("slots", "ring"), [(2, 1), (3, 4)])
def test_what_is_allocated_is_what_the_plan_counts(folder, monkeypatch, mix, slots, ring):
    """Device: resident blocks and the slots. Host: the ring where there is something to read, and the kept blocks."""
    buffers: list[HostBuffer] = []
    allocate = HostMemory.allocate

    def allocate_and_remember(self, nbytes):
        buffers.append(allocate(self, nbytes))
        return buffers[-1]

    monkeypatch.setattr(HostMemory, "allocate", allocate_and_remember)
    root, tiers, device = folder("fp8"), spread_tiers(TierCounts(*mix)), CountingDevice()
    with open_hvlite_transformer(root) as source:
        sizes = {tier: [] for tier in ("resident", "host", "disk")}
        for file, tier in zip(open_block_files(source), tiers, strict=True):
            sizes[tier].append(file.nbytes)
    options = StreamOptions(slots=slots, ring=ring)
    transformer = open_streamed_transformer(
        root, torch.device("cpu"), torch.float32, tiers=TierCounts(*mix), options=options, queue=device
    )
    streamed = [*sizes["host"], *sizes["disk"]]
    in_slots = min(slots, len(streamed)) * max(streamed, default=0)
    in_ring = min(ring, len(streamed)) * max(streamed) if sizes["disk"] else 0
    assert sum(device.allocated) == sum(sizes["resident"]) + in_slots
    assert sum(buffer.tensor.numel() for buffer in buffers) == in_ring + sum(sizes["host"])
    transformer.close()
    assert not sum(buffer.tensor.numel() for buffer in buffers)
    with pytest.raises(RuntimeError, match="closed"):
        next(transformer.blocks.each())
