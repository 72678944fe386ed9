"""The denoise steps of one video, each redone where it fails: in less memory, or at a higher precision.

A step starts from the latents of the step before, which nothing changes, so redoing it is all there is to recovery. The
transformer is let go before every other try: what filled the memory is gone when the next one begins.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import replace
from typing import Literal

from torch import Tensor

from ...errors import MemoryLimitError, NonFiniteError
from ..arrangement import Arrangement
from ..config import GenerateConfig
from ..events import Note
from ..guidance import Conditioning, Guided, schedule_of
from ..parts import PRECISE, Computation, ModelParts
from ..sampling import euler_step
from .memory import free_memory, out_of_memory
from .recoveries import Recoveries
from .rungs import MOST_RUNGS, SAME_AGAIN, next_rung

OnNonfinite = Literal["stop", "retry"]


class RecoveringSteps:
    """Runs the steps of a video with the transformer of `parts`; use it in a `with`, which lets the weights go."""

    def __init__(
        self,
        parts: ModelParts,
        conditioning: Conditioning,
        config: GenerateConfig,
        *,
        arrangement: Arrangement,
        on_nonfinite: OnNonfinite = "stop",
        recoveries: Recoveries | None = None,
    ) -> None:
        """`recoveries` takes what is done otherwise than `arrangement` says."""
        self.arrangement = arrangement
        self._parts, self._conditioning, self._config = parts, conditioning, config
        self._schedule = schedule_of(config)
        self._on_nonfinite = on_nonfinite
        self._recoveries = Recoveries() if recoveries is None else recoveries
        self._rungs = 0
        self._freed = False
        self._open = ExitStack()
        self._guided: Guided | None = None

        time, height, width = (size // patch for size, patch in zip(config.latent_shape[2:], (1, 2, 2), strict=True))
        self._tokens = time * height * width

    def __enter__(self) -> RecoveringSteps:
        return self

    def __exit__(self, *_: object) -> None:
        self._close()

    def run(self, latents: Tensor, start: int = 0) -> Iterator[tuple[int, Tensor]]:
        """From `start` steps done: yields (steps done, latents [1, C, T, H, W] fp32) after every step.

        Raises NonFiniteError with step and block, MemoryLimitError when the ladder ends.
        """
        for index in range(start, self._schedule.steps):
            latents = self._step(latents, index)
            yield index + 1, latents

    def _step(self, latents: Tensor, index: int) -> Tensor:
        try:
            return self._in_memory(latents, index)
        except NonFiniteError as error:
            problem = error.message
        message = f"{problem} ({self._parts.computation}), {self._locate(latents, index)}"
        higher = None if self._parts.computation == PRECISE else PRECISE
        if self._on_nonfinite == "stop" or higher is None:
            raise NonFiniteError(message, hint=self._advice(higher))
        self._parts.on_event(Note("warning", f"{message}: repeating the step in {higher}"))
        self._record(index, f"repeated in {higher}")
        self._forget()
        try:
            return self._in_memory(latents, index, precise=True)
        except NonFiniteError as error:
            raise NonFiniteError(f"{message}; repeated in {higher}: {error.message}", hint=self._advice(None)) from None
        finally:
            self._forget()  # the next step is an ordinary one again, as it would be in a resumed run

    def _in_memory(self, latents: Tensor, index: int, *, precise: bool = False) -> Tensor:
        """The step, down the ladder as far as it takes."""
        while True:
            result = self._attempt(latents, index, precise)
            if isinstance(result, Tensor):
                return result
            # Here the error and its traceback, which hold every tensor of the step, are gone.
            self._forget()
            self._step_down(result, index)

    def _attempt(self, latents: Tensor, index: int, precise: bool) -> Tensor | str:
        """The latents after the step, or in words how memory ran out."""
        try:
            guided = self._opened(precise)
            return euler_step(guided, latents.to(self._parts.device.device), self._schedule, index)
        except Exception as error:
            failure = out_of_memory(error)
            if failure is None:
                raise
            return failure

    def _step_down(self, failure: str, index: int) -> None:
        said = f"out of memory in step {index + 1} of {self._schedule.steps} ({failure})"
        rung = next_rung(self.arrangement, self._tokens)
        if self._rungs == MOST_RUNGS or (rung is None and self._freed):
            raise MemoryLimitError(
                f"{said}, after {self._rungs} steps down",
                hint="fewer --frames or a smaller --resolution needs less; the steps before this one are kept",
            )
        self._rungs += 1
        self._freed = rung is None
        self.arrangement = rung.arrangement if rung else self.arrangement
        change = rung.change if rung else "with all memory given back"
        self._parts.on_event(Note("warning", f"{said}: redoing it {change}"))
        self._record(index, rung.record if rung else SAME_AGAIN)

    def _record(self, index: int, what: str) -> None:
        self._recoveries.add(f"denoise step {index + 1} of {self._schedule.steps}", what)

    def _opened(self, precise: bool) -> Guided:
        """The prediction, the transformer loaded as the arrangement says."""
        if self._guided is None:
            transformer = self._open.enter_context(self._parts.transformer(self.arrangement, precise=precise))
            tiers = self._parts.tiers if self._parts.is_streamable else None
            self.arrangement = replace(self.arrangement, tiers=tiers)
            self._guided = Guided(
                transformer,
                self._conditioning,
                self._config,
                token_chunk=self.arrangement.token_chunk,
                attention=self._parts.attention_for(transformer, precise=precise),
            )
        return self._guided

    def _close(self) -> None:
        self._guided = None
        self._open.close()

    def _forget(self) -> None:
        """Let the transformer go, also where it would be kept for the next video, and all memory with it."""
        self._close()
        self._parts.forget("transformer")
        free_memory(self._parts.device.device)

    def _locate(self, latents: Tensor, index: int) -> str:
        found = None
        with suppress(MemoryError, RuntimeError):  # what went wrong is told all the same
            found = self._opened(precise=False).locate_fault(latents.to(self._parts.device.device), index)
        return f"first after {found}" if found else "and no block gives it a second time"

    def _advice(self, higher: Computation | None) -> str:
        kept = "the latents before this step are kept"
        if higher is not None:
            return f"{kept}: go on with --resume --on-nonfinite retry, which repeats such a step in {higher}"
        return f"{kept}; nothing is higher than {PRECISE}: hvlite verify finds damaged weights"
