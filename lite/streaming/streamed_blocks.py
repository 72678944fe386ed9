"""The blocks of an hvlite folder, each in its tier: resident on the device, kept on the host, or read from disk.

All tiers run the same modules over the same bytes, so they give the same bits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from ...errors import ConfigError
from ...quantize.architecture import TransformerConfig
from ...quantize.format import HvliteTransformer
from ..arithmetic import DEQUANTIZE, LinearArithmetic
from ..events import Listener
from .block_files import BlockFile, BlockLayout
from .block_reader import BlockReader, Source
from .block_shells import make_shell
from .block_stream import BlockStream
from .copy_queue import HAPPENED, CopyDevice, Event
from .host_memory import HostBuffer, HostMemory
from .modulation_file import compute_modulation
from .tiers import Tier, TierCounts
from .transformer_blocks import BlockModulation

PINNED_LIMIT_BYTES = 2 << 30
Placed = tuple[BlockFile, Tier]


@dataclass(frozen=True)
class StreamOptions:
    """How blocks are streamed.

    `slots`: blocks on the device, two so that one is copied while the other computes. `ring`: blocks on the host on
    their way from disk to device. `pinned_limit_bytes` is for ring and kept blocks together.
    """

    slots: int = 2
    ring: int = 2
    pinned_limit_bytes: int = PINNED_LIMIT_BYTES
    arithmetic: LinearArithmetic = DEQUANTIZE

    def __post_init__(self) -> None:
        if self.slots < 2 or self.ring < 1:
            raise ConfigError(f"{self.slots} slots and a ring of {self.ring}; expected at least 2 and 1")


@dataclass(frozen=True)
class DiskBlock:
    """A block whose bytes are read from its file each time."""

    file: BlockFile
    ready: None = None

    @property
    def nbytes(self) -> int:
        return self.file.nbytes

    def fill(self, target: Tensor) -> None:
        self.file.fill(target)


@dataclass(frozen=True)
class KeptBlock:
    """A block whose bytes stay in host memory. `ready` is None where page-locked memory must carry them."""

    buffer: HostBuffer
    ready: Tensor | None

    @property
    def nbytes(self) -> int:
        return self.buffer.nbytes

    def fill(self, target: Tensor) -> None:
        self.buffer.fill(target)


class StreamedBlocks:
    """The blocks of an hvlite folder, which `open_source` opens. Close it: it owns page-locked memory and a thread."""

    def __init__(
        self,
        open_source: Callable[[], HvliteTransformer],
        config: TransformerConfig,
        files: Sequence[BlockFile],
        tiers: Sequence[Tier],
        device: CopyDevice,
        options: StreamOptions,
        on_event: Listener,
    ) -> None:
        """`files` and `tiers`: one of each for every block. Reads what is resident or kept. Raises CheckpointError."""
        self.tiers = TierCounts.of(tiers)
        self._open_source = open_source
        self._config = config
        self._options = options
        self._layouts = [file.layout for file in files]
        self._shells: dict[tuple[int, BlockLayout], nn.Module] = {}
        self._memory = HostMemory(device.page_lock, options.pinned_limit_bytes, on_event)
        self._closed = False
        self._passes = 0
        placed = list(zip(files, tiers, strict=True))
        try:
            self._resident = self._load_resident(placed, device)
            self._slots, self._stream = self._make_stream([each for each in placed if each[1] != "resident"], device)
        except BaseException:
            self._memory.close()
            raise

    @property
    def pinned_bytes(self) -> int:
        """Host memory that is page-locked for them."""
        return self._memory.pinned_bytes

    def _load_resident(self, placed: Sequence[Placed], device: CopyDevice) -> list[nn.Module | None]:
        """A shell for each resident block, None for the others."""
        files = [file for file, tier in placed if tier == "resident"]
        staging = self._allocate_ring([file.nbytes for file in files])
        flats = iter(load_flats(files, staging, device))
        self._memory.free(staging)
        return [
            make_shell(self._config, file.layout, next(flats), self._options.arithmetic) if tier == "resident" else None
            for file, tier in placed
        ]

    def _make_stream(self, placed: Sequence[Placed], device: CopyDevice) -> tuple[list[Tensor], BlockStream | None]:
        """The slots, and what fills them. The ring comes first: page-locked memory is best spent on it."""
        ring = self._allocate_ring([file.nbytes for file, _ in placed])
        sources = [self._source(file, tier, ring) for file, tier in placed]
        if all(source.ready is not None for source in sources):
            self._memory.free(ring)
            ring = []
        largest = max((source.nbytes for source in sources), default=0)
        slots = [device.allocate(largest) for _ in sources[: self._options.slots]]
        return slots, BlockStream(device, BlockReader(), sources, slots=slots, ring=ring) if sources else None

    def _allocate_ring(self, sizes: Sequence[int]) -> list[HostBuffer]:
        """Buffers for the largest of these blocks, no more than there are blocks."""
        return [self._memory.allocate(max(sizes)) for _ in sizes[: self._options.ring]]

    def _source(self, file: BlockFile, tier: Tier, ring: Sequence[HostBuffer]) -> Source:
        if tier == "disk":
            return DiskBlock(file)
        buffer = self._memory.allocate(file.nbytes)
        file.fill(buffer.tensor)
        return KeptBlock(buffer, buffer.tensor if buffer.pinned or not ring[0].pinned else None)

    def modulate(self, vec: Tensor) -> Iterator[BlockModulation]:
        """See `Blocks.modulate`; one layer's weights at a time."""
        with self._open_source() as source:
            yield from compute_modulation(source, vec)

    def each(self) -> Iterator[nn.Module]:
        """See `Blocks.each`. May be given up anywhere; once another begins, it is over."""
        if self._closed:
            raise RuntimeError("the blocks were closed")
        stream = self._stream
        if stream is None:
            yield from (shell for shell in self._resident if shell is not None)
            return
        self._passes += 1
        this = self._passes
        stream.start_pass()
        for layout, shell in zip(self._layouts, self._resident, strict=True):
            if shell is not None:
                stream.advance()
                yield shell
                self._check_pass(this)
            else:
                yield self._shell(stream.take(), layout)
                self._check_pass(this)
                stream.release()
        stream.end_pass()

    def close(self) -> None:
        """Let all weights go: the thread ends, page-locked memory is given back. A second call does nothing."""
        if self._stream is not None:
            self._stream.close()
        self._closed = True
        self._stream, self._resident, self._slots = None, [], []
        self._shells.clear()
        self._memory.close()

    def _check_pass(self, this: int) -> None:
        if self._passes != this or self._closed:
            raise RuntimeError("another pass over the blocks has begun, or they were closed")

    def _shell(self, slot: int, layout: BlockLayout) -> nn.Module:
        """The block over a slot, made once for each layout."""
        shell = self._shells.get((slot, layout))
        if shell is None:
            shell = make_shell(self._config, layout, self._slots[slot], self._options.arithmetic)
            self._shells[slot, layout] = shell
        return shell


def load_flats(files: Sequence[BlockFile], ring: Sequence[HostBuffer], device: CopyDevice) -> list[Tensor]:
    """The flat buffers of blocks that stay on the device; one is read while the one before it is copied."""
    ends: list[Event] = [HAPPENED] * len(ring)
    flats = []
    try:
        for index, file in enumerate(files):
            turn = index % len(ring)
            ends[turn].wait()
            file.fill(ring[turn].tensor)
            flat = device.allocate(file.nbytes)
            ends[turn] = device.copy(flat, ring[turn].tensor[: file.nbytes], device.release(flat))
            flats.append(flat)
    finally:  # also where the device is full: both ends of a copy under way would be given to others
        for end in ends:
            end.wait()
    return flats
