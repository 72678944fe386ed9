"""Amounts of memory as a command line writes them (arithmetic only)."""

from __future__ import annotations

import re

from ...errors import ConfigError

UNITS = {
    "b": 1,
    "kb": 10**3,
    "mb": 10**6,
    "gb": 10**9,
    "tb": 10**12,
    "kib": 1 << 10,
    "mib": 1 << 20,
    "gib": 1 << 30,
    "tib": 1 << 40,
}
_AMOUNT = re.compile(r"\s*(\d{1,15}(?:\.\d{1,6})?)\s*([a-z]+)\s*", re.IGNORECASE)


def parse_bytes(option: str, text: str) -> int:
    """ "12GiB", "11.5 GiB", "8000MB" -> bytes. ConfigError naming the option; a bare number says too little."""
    match = _AMOUNT.fullmatch(text)
    unit = UNITS.get(match[2].lower()) if match else None
    if match is None or unit is None:
        raise ConfigError(
            f"{option} {text}: not an amount of memory",
            hint=f"a number and a unit, as in {option} 12GiB (or GB, MiB, MB)",
        )
    nbytes = round(float(match[1]) * unit)
    if nbytes < 1:
        raise ConfigError(f"{option} {text}: nothing can run in that", hint=f"for example {option} 12GiB")
    return nbytes


def parse_limit(option: str, text: str | None) -> int | None:
    """`parse_bytes`, None for an option that was left out."""
    return None if text is None else parse_bytes(option, text)


def gib(nbytes: int) -> str:
    """Bytes in GiB, with two digits."""
    return f"{nbytes / (1 << 30):.2f} GiB"
