"""What is looked at between two steps and between two chunks of frames: the cap on host memory, and a wish to stop."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from torch import Tensor

from ..errors import InterruptedRunError
from .config import DecodeRequest, GenerateRequest
from .durations import counted
from .events import Listener, stage
from .interrupt import StopFlag
from .pipeline import Pipeline
from .recovery.host_cap import HostCap
from .tiling import TIME_RATIO


@dataclass(frozen=True)
class Pause:
    """Call it between two pieces of work. `go_on`: in words, how a run that stops here is gone on with."""

    cap: HostCap
    stop: StopFlag
    go_on: str

    def __call__(self, where: str, kept: str) -> None:
        """HostCapError where the process holds too much, InterruptedRunError where a stop is wanted."""
        self.cap.check(where, kept)
        if self.stop.requested:
            raise InterruptedRunError(f"stopped {where}; {kept}", hint=f"go on with {self.go_on}")


def cap_of(request: GenerateRequest | DecodeRequest, pipeline: Pipeline) -> HostCap:
    """The cap on host memory that a request gives, or leaves to the default."""
    return HostCap(pipeline.machine.ram_bytes, given=request.ram_limit_bytes is not None)


def watched_chunks(
    chunks: Iterator[Tensor], latents: Tensor, on_event: Listener, pause: Callable[[str], None]
) -> Iterator[Tensor]:
    """The chunks of a decode, reported as they pass; `pause` is told where it is after all but the last."""
    total, done = TIME_RATIO * (latents.shape[2] - 1) + 1, 0
    with stage("decode", total, on_event) as report:
        for chunk in chunks:
            yield chunk
            done += chunk.shape[0]
            report.step(done)
            if done < total:
                pause(f"after frame {done} of {total}")
        report.detail = counted(total, "frame")
