"""BlockStream: weights on their way from disk or host memory through device slots, ahead of the computation.

Three queues work side by side: reads (disk -> ring of host buffers), copies (host -> slots), computation. The host only
says what must come after what, through events; it waits for a read, never for the device.

    a read into a ring buffer    comes after the last copy out of it
    a copy into a slot           comes after the read, and after the last computation with the slot
    computation with a slot      comes after the copy into it
"""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from .block_reader import Reader, Source
from .copy_queue import HAPPENED, CopyDevice, Event
from .host_memory import HostBuffer


@dataclass
class Slot:
    """Device memory for one block. `free`: the end of the last computation that used it."""

    flat: Tensor
    free: Event


@dataclass
class RingBuffer:
    """Host memory for one block. `free`: the end of the last copy out of it."""

    memory: HostBuffer
    free: Event = HAPPENED


@dataclass(frozen=True)
class _Read:
    """A read that was queued and whose copy was not."""

    buffer: RingBuffer
    end: Event


class BlockStream:
    """Streams `sources` round and round, in order: `take` gives the slot of the next one, `release` gives it back.

    Slots and ring buffers are used in turn, so counters say all there is to know: items are numbered from 0, item n is
    copied into slot n modulo the slots once item n - slots is released.
    """

    def __init__(
        self,
        device: CopyDevice,
        reader: Reader,
        sources: Sequence[Source],
        *,
        slots: Sequence[Tensor],
        ring: Sequence[HostBuffer],
    ) -> None:
        """Each of `slots` (from `device.allocate`) and of `ring` holds the largest source. Only reads need a ring."""
        self._device = device
        self._reader = reader
        self._sources = sources
        self._slots = [Slot(flat, device.release(flat)) for flat in slots]
        staged = any(source.ready is None for source in sources)
        self._ring = [RingBuffer(memory) for memory in ring] if staged else []
        self._reads: deque[_Read] = deque()
        self._copies: deque[Event] = deque()  # of items that were copied and not yet taken
        self._last_copy: Event = HAPPENED
        self._first = 0  # the item that is the first source in the current round
        self._staged = 0  # how many reads were queued, ever
        self._read = self._copied = self._taken = self._released = 0

    def start_pass(self) -> None:
        """The next item taken is the first source: also after a pass that was broken off anywhere."""
        if (self._taken - self._first) % len(self._sources) or self._taken != self._released:
            self._start_over()
        self.advance()

    def take(self) -> int:
        """The index of the slot with the next source; what is computed from now on finds it there.

        Raises what went wrong while it was read.
        """
        self.advance()
        while self._copied == self._taken:
            self._await_read()
            self.advance()
        self._device.compute_after(self._copies.popleft())
        index = self._taken % len(self._slots)
        self._taken += 1
        return index

    def release(self) -> None:
        """Nothing computed from now on uses the slot that was taken."""
        self._give_back()
        self.advance()

    def end_pass(self) -> None:
        """The first source of the next round starts for its slot while the device is still at the end of this one.

        Without this the device would stand still for one copy a step: the host waits for it before the next begins.
        """
        if self._reads and self._copied == self._taken:
            with contextlib.suppress(Exception):  # raised where the block is taken
                self._reads[0].end.wait()
            self.advance()

    def advance(self) -> None:
        """Queue every read and copy that the host need not wait for. Cheap: call it whenever there is a moment."""
        while self._start_copy() or self._start_read():
            pass

    def close(self) -> None:
        """End the reads, and wait until no copy uses the slots or the ring."""
        self._reader.close()
        self._last_copy.wait()

    def _await_read(self) -> None:
        """Hold the host until the next item is read. After a failure the stream is at a start again."""
        try:
            self._reads[0].end.wait()
        except BaseException:
            self._start_over()
            raise

    def _give_back(self) -> None:
        slot = self._slots[self._released % len(self._slots)]
        slot.free = self._device.release(slot.flat)
        self._released += 1

    def _start_read(self) -> bool:
        if len(self._reads) == len(self._ring):
            return False
        while self._source(self._read).ready is not None:
            self._read += 1
        buffer = self._ring[self._staged % len(self._ring)]
        self._reads.append(
            _Read(buffer, self._reader.read(self._source(self._read), buffer.memory.tensor, buffer.free))
        )
        self._read += 1
        self._staged += 1
        return True

    def _start_copy(self) -> bool:
        if self._copied == self._released + len(self._slots):
            return False
        source = self._source(self._copied)
        if source.ready is not None:
            self._copy(source.ready, source.nbytes)
            return True
        if not self._reads or not self._reads[0].end.happened():
            return False
        buffer = self._reads.popleft().buffer
        buffer.free = self._copy(buffer.memory.tensor, source.nbytes)
        return True

    def _copy(self, data: Tensor, nbytes: int) -> Event:
        slot = self._slots[self._copied % len(self._slots)]
        self._last_copy = self._device.copy(slot.flat[:nbytes], data[:nbytes], slot.free)
        self._copies.append(self._last_copy)
        self._copied += 1
        return self._last_copy

    def _start_over(self) -> None:
        """Give back what was taken, drop what is on its way, and number on from there."""
        if self._taken > self._released:
            self._give_back()
        self._reads.clear()  # the reader works in order, so they end before their buffers are read into again
        self._copies.clear()
        self._first = self._read = self._taken = self._released = self._copied

    def _source(self, item: int) -> Source:
        return self._sources[(item - self._first) % len(self._sources)]
