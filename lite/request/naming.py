"""Names of output files: short in bytes and harmless whatever the script of the prompt."""

from __future__ import annotations

import unicodedata
from pathlib import Path

NAME_LIMIT_BYTES = 255
STATE_SUFFIX = ".hvlite"
# Beside `<output>.hvlite` a file is written as `.<name>.<random>.part` before it gets its own name.
RESERVED_BYTES = 32
SLUG_LIMIT_BYTES = 80


def slug(text: str, limit_bytes: int = SLUG_LIMIT_BYTES) -> str:
    """Letters and digits of any script, everything else one dash; at most `limit_bytes` of UTF-8, never empty."""
    spaced = "".join(char if _is_word_character(char) else " " for char in unicodedata.normalize("NFC", text))
    return clip_bytes("-".join(spaced.split()).lower(), limit_bytes).rstrip("-") or "video"


def clip_bytes(text: str, limit_bytes: int) -> str:
    """The longest start of `text` that fits into `limit_bytes` of UTF-8 and cuts no character."""
    return text.encode("utf-8", "ignore")[:limit_bytes].decode("utf-8", "ignore")


def chosen_name(prompt: str, seed: int, suffix: str, name_suffix: str = "") -> str:
    """The file name hvlite picks: the prompt's first words, the seed, what the user adds, and the format's suffix."""
    extra = f"_{slug(name_suffix)}" if name_suffix.strip() else ""
    return f"{slug(prompt)}_seed{seed}{extra}{suffix}"


def numbered(output: Path, index: int, count: int) -> Path:
    """`video.mp4` -> `video-2.mp4` for the second of several; a single video keeps its name."""
    if count == 1:
        return output
    width = len(str(count))
    return output.with_name(f"{output.stem}-{index + 1:0{width}}{output.suffix}")


def free_name(path: Path) -> Path:
    """The path, or the first of `name_2`, `name_3`, ... that is neither there nor in use by an unfinished run."""
    candidate, number = path, 1
    while candidate.exists() or candidate.is_symlink() or state_folder_of(candidate).exists():
        number += 1
        candidate = path.with_name(f"{path.stem}_{number}{path.suffix}")
    return candidate


def state_folder_of(output: Path) -> Path:
    """Where a run that makes `output` keeps its step checkpoints and latents."""
    return output.with_name(output.name + STATE_SUFFIX)


def name_is_too_long(output: Path) -> bool:
    """Whether the name, or a name hvlite derives from it, is longer than file systems take."""
    return len(output.name.encode("utf-8", "surrogateescape")) + RESERVED_BYTES > NAME_LIMIT_BYTES


def _is_word_character(char: str) -> bool:
    return unicodedata.category(char)[0] in "LMN"
