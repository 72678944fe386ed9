"""What a prompt may be: text that survives the tokenizer, the metadata and a second run unchanged."""

from __future__ import annotations

import unicodedata
from pathlib import Path

from ...errors import ConfigError

MAX_PROMPT_CHARACTERS = 20_000
DEFAULT_NEGATIVE_PROMPT = (
    "Aerial view, aerial view, overexposed, low quality, deformation, a poor composition, bad hands, bad teeth, "
    "bad eyes, bad limbs, distortion"
)
"""What the official code pushes away from when classifier-free guidance is on and no negative prompt is given."""


def clean_prompt(text: str, *, what: str = "prompt") -> str:
    """The text stripped and in Unicode form NFC (one spelling for one text); raises ConfigError for what is no text."""
    if not isinstance(text, str):
        raise ConfigError(f"the {what} must be text, not {type(text).__name__}", hint="give it as a str")
    if len(text) > MAX_PROMPT_CHARACTERS:
        raise ConfigError(
            f"the {what} has {len(text)} characters; {MAX_PROMPT_CHARACTERS} is the limit",
            hint="the text encoder reads about 200 words: shorten it",
        )
    if "\0" in text:
        raise ConfigError(f"the {what} contains a NUL character", hint="remove it")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise ConfigError(
            f"the {what} is not valid text: a broken character at position {error.start}",
            hint="pass it as UTF-8, or in a UTF-8 file with --prompt-file",
        ) from None
    return unicodedata.normalize("NFC", text.strip())


def require_prompt(text: str) -> str:
    """A cleaned prompt that says something; raises ConfigError for an empty one."""
    cleaned = clean_prompt(text)
    if not cleaned:
        raise ConfigError("the prompt is empty", hint='say what to show: hvlite generate "a red circle moves right"')
    return cleaned


def read_prompt_file(path: Path) -> str:
    """The text of a UTF-8 file (a byte order mark is dropped); raises ConfigError naming the file."""
    try:
        with path.open("rb") as file:
            data = file.read(4 * MAX_PROMPT_CHARACTERS + 4)
        return data.decode("utf-8-sig")
    except (OSError, ValueError) as error:
        reason = "not UTF-8 text" if isinstance(error, UnicodeDecodeError) else str(getattr(error, "strerror", error))
        raise ConfigError(f"--prompt-file {path}: {reason}", hint="give a readable UTF-8 text file") from None


def effective_negative_prompt(negative_prompt: str | None, cfg_scale: float) -> str | None:
    """The text that classifier-free guidance pushes away from; None where it is off (cfg_scale 1).

    As in the official code, no text and an empty text both mean the built-in one.
    """
    if cfg_scale == 1.0:
        return None
    return negative_prompt or DEFAULT_NEGATIVE_PROMPT
