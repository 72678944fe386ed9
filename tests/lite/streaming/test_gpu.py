"""On a CUDA device: the same bits in every tier, copies beside computation, exact page-locked memory."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from hvlite.lite.streaming.block_stream import BlockStream
from hvlite.lite.streaming.copy_queue import CudaDevice
from hvlite.lite.streaming.host_memory import CudaPageLock, HostBuffer
from hvlite.lite.streaming.streamed_blocks import StreamOptions
from hvlite.lite.streaming.streamed_transformer import open_streamed_transformer
from hvlite.lite.streaming.tiers import TierCounts

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
CUDA = torch.device("cuda", 0)
MIXES = [(8, 0, 0), (0, 8, 0), (0, 0, 8), (3, 2, 3), (1, 1, 6)]
BLOCK_BYTES, BLOCKS = 64 << 20, 12


@pytest.mark.parametrize("scheme", ["fp8", "int8", "bf16"])
def test_same_bits_in_every_tier(folder, latents_of, scheme):
    expected = None
    for mix in MIXES:
        for ring, pinned in ((1, 1 << 30), (2, 0), (4, 60_000)):
            transformer = open_streamed_transformer(
                folder(scheme),
                CUDA,
                torch.bfloat16,
                tiers=TierCounts(*mix),
                options=StreamOptions(ring=ring, pinned_limit_bytes=pinned),
            )
            for _ in range(3):
                latents = latents_of(transformer)
                expected = expected or latents
                assert all(torch.equal(ours, first) for ours, first in zip(latents, expected, strict=True))
            transformer.close()


def test_a_refused_page_lock_leaves_the_device_well():
    lock = CudaPageLock.of(CUDA)
    buffer = HostBuffer(1 << 20)
    assert lock.register(buffer.tensor.data_ptr(), 1 << 50) is not None
    assert torch.ones(1000, device=CUDA).sum().item() == 1000
    assert buffer.pin(lock) is None
    assert buffer.tensor.is_pinned()
    buffer.close()


def test_page_locked_memory_is_exact():
    lock = CudaPageLock.of(CUDA)
    nbytes = 1200 << 20  # torch's own allocator takes 2 GiB for it
    before = locked_bytes()
    buffer = HostBuffer(nbytes)
    assert buffer.pin(lock) is None
    assert locked_bytes() - before <= nbytes * 1.02
    buffer.close()


def test_copies_run_beside_computation():
    """Twelve blocks whose computation takes longer than their copy: the copies add under a fifth of their own time."""
    device, lock = CudaDevice(CUDA), CudaPageLock.of(CUDA)
    kept = [HostBuffer(BLOCK_BYTES) for _ in range(3)]
    for buffer in kept:
        assert buffer.pin(lock) is None
    sources = [Kept(kept[index % 3].tensor) for index in range(BLOCKS)]
    stream = BlockStream(device, None, sources, slots=[device.allocate(BLOCK_BYTES) for _ in range(2)], ring=[])
    matrix = torch.randn(4096, 4096, device=CUDA, dtype=torch.bfloat16)

    def compute() -> None:
        for _ in range(40):
            torch.mm(matrix, matrix)

    def resident() -> None:
        for _ in range(BLOCKS):
            compute()

    def streamed() -> None:
        stream.start_pass()
        for _ in range(BLOCKS):
            stream.take()
            compute()
            stream.release()
        stream.end_pass()

    copies = timed(lambda: [buffer.tensor.to(CUDA, non_blocking=True) for buffer in kept]) / 3 * BLOCKS
    alone, both = min(timed(resident) for _ in range(3)), min(timed(streamed) for _ in range(3))
    assert copies < alone, "the card is too fast for this test: give it more to compute"
    assert both - alone < copies / 5
    torch.cuda.synchronize()
    for buffer in kept:
        buffer.close()


class Kept:
    def __init__(self, ready: torch.Tensor) -> None:
        self.ready, self.nbytes = ready, ready.numel()


def timed(work) -> float:
    """Milliseconds on the device."""
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    torch.cuda.synchronize()
    start.record()
    work()
    end.record()
    torch.cuda.synchronize()
    return start.elapsed_time(end)


def locked_bytes() -> int:
    """Memory of this process: resident pages, page-locked ones among them."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith(("RssAnon", "RssShmem")))
