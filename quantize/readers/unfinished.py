"""A folder that `hvlite quantize` has begun and not finished, or that has lost what names its files."""

from __future__ import annotations

from pathlib import Path

from ...errors import CheckpointError

WORK_FOLDER = ".quantize"
_TRACE = Path("transformer", "outer.safetensors")  # no other layout has a file of such a name


def refuse_without_manifest(folder: Path) -> None:
    """CheckpointError for a folder without hvlite.json that the converter was at work in; others pass."""
    if (folder / WORK_FOLDER).is_dir():
        raise CheckpointError(
            f"{folder} is an unfinished conversion",
            hint=f"the `hvlite quantize ... {folder}` that began it goes on where it stopped; run it again",
        )
    if (folder / _TRACE).is_file():
        raise CheckpointError(
            f"{folder} is a converted model without its hvlite.json, which says what the other files are",
            hint="copy hvlite.json from where the folder came from, or convert the model again",
        )
