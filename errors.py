"""The errors a user can meet: one line that says what was wrong and what was expected, and a hint that says what to do.

Every class carries the exit code of its kind; `cli.py` prints the message and the hint and leaves with that code.
"""

from __future__ import annotations


class HvliteError(Exception):
    """Base of all errors hvlite raises on purpose. `exit_code` 70 means a bug of ours."""

    exit_code = 70

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message} ({self.hint})" if self.hint else self.message


class ConfigError(HvliteError, ValueError):
    """Bad input: an option, a prompt, a size or a path that cannot be right."""

    exit_code = 2


class CheckpointError(HvliteError):
    """Weights or another file of a model are missing, malformed or not what the architecture needs."""

    exit_code = 3


class DiskError(HvliteError):
    """The disk is full, read-only or failed; nothing finished is lost."""

    exit_code = 4


class UnsupportedDeviceError(HvliteError):
    """The device or its driver cannot do what was asked."""

    exit_code = 5


class MissingPartError(HvliteError):
    """An optional package is needed for what was asked and is not installed."""

    exit_code = 5


class MemoryLimitError(HvliteError):
    """The work does not fit into the memory it may use."""

    exit_code = 6


class DeviceBusyError(HvliteError):
    """Another process has the graphics card and waiting for it was not wanted; the same command works later."""

    exit_code = 75


class NonFiniteError(HvliteError):
    """The model gave NaN, infinity or one value everywhere: step and block are named, the work before it is kept."""

    exit_code = 5


class BatchFailedError(HvliteError):
    """Some videos of a batch failed; the others are made."""

    exit_code = 1


class InterruptedRunError(HvliteError):
    """The run was stopped on request; its work is kept and the message says where."""

    exit_code = 130
