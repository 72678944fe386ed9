"""What a run did otherwise than planned. It goes into what comes of the run, apart from what was asked for.

A run is the same run whether or not memory was short.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from ..settings import RECOVERIES


class Recoveries:
    """Lines in the order things happened: "denoise step 3 of 20: token_chunk 8192 -> 2048"."""

    def __init__(self, lines: Iterable[str] = ()) -> None:
        self.lines = list(lines)

    @classmethod
    def of(cls, settings: Mapping[str, Any]) -> Recoveries:
        """Those that the settings inside a file tell of; none where they say nothing that can be read."""
        lines = settings.get(RECOVERIES)
        return cls(line for line in lines if isinstance(line, str)) if isinstance(lines, list) else cls()

    def add(self, where: str, what: str) -> None:
        """`where`: the stage, and the step or tile; `what`: what was changed for it."""
        self.lines.append(f"{where}: {what}")

    def in_settings(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        """What was asked for, and these lines where there are any."""
        asked = {name: value for name, value in settings.items() if name != RECOVERIES}
        return {**asked, RECOVERIES: list(self.lines)} if self.lines else asked
