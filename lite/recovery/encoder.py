"""The text encoders, loaded for the first prompt, and loaded anew where memory runs out: layer by layer, the same bits.

Layer by layer the language model takes the memory of one layer, and a read of the file for every prompt.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack

from ...errors import MemoryLimitError
from ..events import Note
from ..parts import ModelParts
from ..text import PromptEmbeds, TextEncoders
from .memory import free_memory, out_of_memory
from .recoveries import Recoveries
from .rungs import SAME_AGAIN

MORE_FOR_TEXT = (
    "no setting of the video changes what a prompt takes: close other programs, raise --vram-limit or --ram-limit, "
    "or convert the model with hvlite quantize, which makes the text encoder a third as large"
)
BY_LAYER = "text encoder whole -> layer by layer"


class RecoveringEncoder:
    """Call it with a prompt: its embeddings. Use it in a `with`, which lets the encoders go."""

    def __init__(
        self,
        parts: ModelParts,
        *,
        by_layer: bool,
        recoveries: Recoveries | None = None,
        on_loaded: Callable[[], None] | None = None,
    ) -> None:
        """`by_layer`: as planned from the start; `recoveries` takes what is done otherwise; `on_loaded`: they are."""
        self.by_layer = by_layer
        self._on_loaded = on_loaded
        self._parts = parts
        self._recoveries = Recoveries() if recoveries is None else recoveries
        self._freed = False
        self._open = ExitStack()
        self._text: TextEncoders | None = None

    def __enter__(self) -> RecoveringEncoder:
        return self

    def __exit__(self, *_: object) -> None:
        self._close()

    def __call__(self, prompt: str, *, image: bool) -> PromptEmbeds:
        """A batch of one. Raises MemoryLimitError when there is nothing left to give, and what the encoders raise."""
        while True:
            result = self._attempt(prompt, image)
            if isinstance(result, PromptEmbeds):
                self._freed = False
                return result
            # Here the error and its traceback, which hold what had been loaded, are gone.
            self._close()
            self._parts.forget("text")
            free_memory(self._parts.device.device)
            self._step_down(result)

    def _attempt(self, prompt: str, image: bool) -> PromptEmbeds | str:
        """The embeddings, or in words how memory ran out."""
        try:
            if self._text is None:
                self._text = self._open.enter_context(self._parts.text(by_layer=self.by_layer))
                if self._on_loaded is not None:
                    self._on_loaded()
            return self._text.encode(prompt, image=image)
        except Exception as error:
            failure = out_of_memory(error)
            if failure is None:
                raise
            return failure

    def _step_down(self, failure: str) -> None:
        said = f"out of memory while encoding the prompt ({failure})"
        if self.by_layer and self._freed:
            raise MemoryLimitError(f"{said}, layer by layer as well", hint=MORE_FOR_TEXT)
        self._freed = self.by_layer
        how = ("again", SAME_AGAIN) if self.by_layer else ("layer by layer", BY_LAYER)
        self.by_layer = True
        self._parts.on_event(Note("warning", f"{said}: doing it {how[0]}, all memory given back"))
        self._recoveries.add("embed", how[1])

    def _close(self) -> None:
        self._text = None
        self._open.close()
