"""Names the command that finds damage, where a converted model turns out to be damaged while it is used."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ...errors import CheckpointError, NonFiniteError
from ...quantize.readers.locate import MANIFEST


@contextmanager
def point_to_verify(model: Path | None) -> Iterator[None]:
    """Errors that a damaged file of `model` explains get a hint at `hvlite verify`; others, and other models, none.

    A run reads each file once and hashes none, so that it cannot tell itself.
    """
    try:
        yield
    except (CheckpointError, NonFiniteError) as error:
        if model is not None and (model / MANIFEST).exists() and _may_be_damage(error, model):
            command = f"hvlite verify {shlex.quote(str(model))}"
            if command not in (error.hint or ""):
                error.hint = "; ".join(filter(None, (error.hint, f"{command} names every damaged file")))
        raise


def _may_be_damage(error: CheckpointError | NonFiniteError, model: Path) -> bool:
    return isinstance(error, NonFiniteError) or str(model) in error.message
