"""Latents on disk: one tensor in a safetensors file that also says, in its metadata, what made it.

The file is written crash-safely and carries the SHA-256 of its data, so a flipped bit is found when it is read.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...errors import CheckpointError
from ...files import write_atomic
from ...quantize.readers.safetensors_file import SafetensorsFile, open_safetensors
from ...quantize.readers.tensor_file import TORCH_NAMES
from ..settings import settings_from_text, settings_to_text

if TYPE_CHECKING:
    import torch

_TENSOR = "latents"
_DTYPE_NAMES = {torch_name: name for name, torch_name in TORCH_NAMES.items()}


@dataclass(frozen=True)
class LatentsNote:
    """What a latents file says about itself: who made it, and after how many steps (None: all of them)."""

    settings: dict[str, Any]
    fingerprint: str
    step: int | None = None


def write_latents(path: Path, latents: torch.Tensor, note: LatentsNote) -> None:
    """Write latents of any float dtype, bit for bit; whenever this is killed, `path` holds the old file or the new."""
    data = tensor_bytes(latents.detach().cpu())
    metadata = {
        "settings": settings_to_text(note.settings),
        "fingerprint": note.fingerprint,
        "step": "all" if note.step is None else str(note.step),
    }
    shape, dtype = list(latents.shape), _DTYPE_NAMES[str(latents.dtype).removeprefix("torch.")]
    metadata["sha256"] = _checksum(metadata, shape, data)
    entry = {"dtype": dtype, "shape": shape, "data_offsets": [0, len(data)]}
    write_atomic(path, [pack_header({"__metadata__": metadata, _TENSOR: entry}), data])


def read_latents(path: Path | str) -> tuple[torch.Tensor, LatentsNote]:
    """The latents and what made them. CheckpointError where the file is damaged or not one that hvlite wrote."""
    with open_safetensors(path) as file:
        note = _note(file)
        latents = file.read(_TENSOR)
        if _checksum(file.metadata, list(latents.shape), tensor_bytes(latents)) != file.metadata.get("sha256"):
            raise CheckpointError(f"{file.path}: the latents do not match their checksum: damaged on disk")
    return latents, note


def read_latents_note(path: Path | str) -> LatentsNote:
    """What made the latents, without reading them; imports no torch. CheckpointError as `read_latents`."""
    with open_safetensors(path) as file:
        return _note(file)


def _note(file: SafetensorsFile) -> LatentsNote:
    settings = settings_from_text(file.metadata.get("settings"))
    step = file.metadata.get("step", "")
    if settings is None or file.names() != [_TENSOR] or not (step == "all" or step.isdecimal()):
        raise CheckpointError(
            f"{file.path} is not a latents file that hvlite wrote", hint="give the latents.safetensors of a run"
        )
    return LatentsNote(settings, file.metadata.get("fingerprint", ""), None if step == "all" else int(step))


def tensor_bytes(tensor: torch.Tensor) -> bytes:
    """The elements of a tensor on the CPU, in order."""
    import torch

    data: bytes = tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
    return data


def _checksum(metadata: dict[str, str], shape: list[int], data: bytes) -> str:
    """SHA-256 (hex) of the data and of all that is said about it."""
    said = [metadata.get(name, "") for name in ("settings", "fingerprint", "step")]
    return hashlib.sha256(json.dumps([*said, shape]).encode("ascii") + data).hexdigest()


def pack_header(header: dict[str, Any]) -> bytes:
    """The start of a safetensors file: the length of the JSON, then the JSON, padded so that the data is aligned."""
    text = json.dumps(header, ensure_ascii=False).encode("utf-8")
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text
