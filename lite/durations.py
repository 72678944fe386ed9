"""Times and counts in words. Imports nothing."""

from __future__ import annotations


def duration(seconds: float) -> str:
    """A time a person can grasp: 0.4 s, 47 s, 12 min 5 s, 3 h 20 min."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes == 0:
        return f"{rest} s"
    hours, minutes_left = divmod(minutes, 60)
    return f"{hours} h {minutes_left} min" if hours else f"{minutes} min {rest} s"


def counted(number: int, thing: str) -> str:
    """A number and its noun: 1 frame, 2 frames."""
    return f"{number} {thing}" if number == 1 else f"{number} {thing}s"
