"""The settings of a run as one JSON text: what videos, frame folders and latents carry inside them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from ..errors import ConfigError
from ..files import parse_json

MARK = "hvlite"  # the one key around the settings: a JSON comment of another program is not taken for ours

# What changes the file but not the latents: a run may be resumed with other values of these.
OUTPUT_ONLY = frozenset({"fps", "vae_tiling", "crf", "lossless", "png", "output", "keep_latents", "preview_every"})

# What happened on the way, which nobody asks for: it is told, and compared with nothing.
RECOVERIES = "recoveries"


def settings_to_text(settings: Mapping[str, Any]) -> str:
    """JSON with sorted keys and readable unicode; a lone surrogate becomes its JSON escape. ConfigError if not JSON."""
    try:
        text = json.dumps({MARK: settings}, ensure_ascii=False, allow_nan=False, sort_keys=True)
    except (TypeError, ValueError, RecursionError) as error:
        raise ConfigError(f"the settings are not plain JSON values: {error}") from error
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def settings_from_text(text: str | None) -> dict[str, Any] | None:
    """The settings inside a text written by `settings_to_text`; None where the text is anything else."""
    try:
        value = parse_json((text or "").encode("utf-8"))
    except (ValueError, RecursionError):
        return None
    settings = value.get(MARK) if isinstance(value, dict) else None
    return settings if isinstance(settings, dict) else None


def latent_settings(settings: Mapping[str, Any], model_fingerprint: str) -> dict[str, Any]:
    """What is asked of the latents: all settings that are not about the output file, and the model's fingerprint."""
    kept = {name: value for name, value in settings.items() if name not in OUTPUT_ONLY and name != RECOVERIES}
    return {**kept, "model_fingerprint": model_fingerprint}


def fingerprint(settings: Mapping[str, Any], model_fingerprint: str) -> str:
    """SHA-256 (hex) of what the latents depend on: equal fingerprints, equal latents."""
    text = settings_to_text(latent_settings(settings, model_fingerprint))
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


def settings_differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """One line for each field whose value differs, with both values: "seed: 1 before, 2 now"."""
    names = sorted(before.keys() | now.keys())
    return [
        f"{name}: {_shown(before, name)} before, {_shown(now, name)} now"
        for name in names
        if _shown(before, name) != _shown(now, name)
    ]


def _shown(settings: Mapping[str, Any], name: str) -> str:
    return json.dumps(settings[name], ensure_ascii=False, sort_keys=True) if name in settings else "not set"
