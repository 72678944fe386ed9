"""What the doctor found, and the guard that keeps one failing check from hiding the others."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ...errors import ConfigError, HvliteError
from ..config import DEVICES
from ..request.output_checks import check_path_text

State = Literal["ok", "warning", "error"]


@dataclass(frozen=True)
class Finding:
    """`name` of the thing, its `state`, `what` was found in one line, and the `fix`: a command or one thing to do.

    `exit_code` is that of errors.py which a generation would end with; it counts for errors only.
    """

    name: str
    state: State
    what: str
    fix: str | None = None
    exit_code: int = 5

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {"name": self.name, "state": self.state, "what": self.what, "fix": self.fix}


@dataclass(frozen=True)
class Patient:
    """What is examined: the device as --device names it, a model (None: the one that ships), the output's folder."""

    device: str
    model: Path | None
    folder: Path

    def __post_init__(self) -> None:
        if self.device not in DEVICES:
            raise ConfigError(f"device {self.device!r}: not known", hint=f"one of {', '.join(DEVICES)}")
        for path, option in ((self.model, "--model"), (self.folder, "--save-path")):
            if path is not None:
                check_path_text(path, option)


Check = Callable[[Patient], Iterable[Finding]]


def examine(name: str, check: Check, patient: Patient) -> list[Finding]:
    """The findings of one check; one that raises is a finding itself."""
    try:
        return list(check(patient))
    except HvliteError as error:
        return [Finding(name, "error", error.message, error.hint, error.exit_code)]
    except Exception as error:  # noqa: BLE001  # a sick machine may raise anything
        what = f"could not be examined: {type(error).__name__}: {' '.join(str(error).split())[:300]}"
        return [Finding(name, "warning", what)]


def exit_code(findings: Sequence[Finding]) -> int:
    """0 where a generation will work, else the code it would end with."""
    return next((finding.exit_code for finding in findings if finding.state == "error"), 0)
