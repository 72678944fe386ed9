"""Prompt embeddings on disk, so that a prompt that was read before never loads the text encoders.

An entry is named by a hash of the prompt, its template and the encoders; it holds three tensors and their SHA-256, and
neither the prompt nor any of its words. A damaged entry is removed and computed anew. The least recently used go first.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...errors import CheckpointError, DiskError
from ...files import parse_json, write_atomic
from ...quantize.readers.safetensors_file import SafetensorsFile, open_safetensors
from ..card import ModelCard
from ..events import Listener, Note, ignore
from ..state.latents_file import pack_header, tensor_bytes
from ..text import PromptEmbeds
from .tokens import Truncation

LIMIT_BYTES = 256 << 20  # about a hundred prompts of the 13B model on a card, half of that on a CPU
ABANDONED_S = 3600  # a `.part` file of that age belongs to a process that is gone
NAMES = ("prompt_embeds", "prompt_mask", "pooled_prompt_embeds")
_TYPES = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16", torch.int64: "I64"}


def cache_folder(environment: Mapping[str, str] = os.environ) -> Path:
    """$HVLITE_CACHE_DIR, else hvlite in $XDG_CACHE_HOME or ~/.cache; the prompts have a folder of their own there."""
    chosen = environment.get("HVLITE_CACHE_DIR")
    if chosen:
        return Path(chosen).expanduser().absolute() / "prompts"
    base = Path(environment.get("XDG_CACHE_HOME", ""))
    # The XDG specification has relative paths ignored.
    return (base if base.is_absolute() else Path("~/.cache").expanduser()) / "hvlite" / "prompts"


@dataclass(frozen=True)
class PromptCache:
    """Entries of one model's encoders in `folder`, at most `limit_bytes` of all models together.

    `encoders` names the encoders and how they compute. Nothing here ends a run: what goes wrong is told `on_event`.
    """

    folder: Path
    card: ModelCard
    encoders: str
    on_event: Listener = ignore
    limit_bytes: int = LIMIT_BYTES

    def get(self, prompt: str, *, image: bool) -> PromptEmbeds | None:
        """The embeddings of a prompt on the CPU; None where they are not there, or no longer as they were written."""
        path = self.path(prompt, image=image)
        try:
            if not path.is_file():
                return None
            embeds = _read(path, prompt.strip())
            os.utime(path)  # the time of its last use
        except (CheckpointError, DiskError, OSError) as error:
            self._note(f"the kept embeddings of this prompt cannot be used ({error}); it is encoded anew")
            with contextlib.suppress(OSError):
                path.unlink()
            return None
        return embeds

    def put(self, prompt: str, embeds: PromptEmbeds, *, image: bool) -> None:
        """Keep the embeddings of one prompt (a batch of one)."""
        path = self.path(prompt, image=image)
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            write_atomic(path, _packed(path.stem, embeds))
            self._make_room(path)
        except (DiskError, OSError) as error:
            self._note(f"the embeddings of this prompt are not kept: {error}")

    def path(self, prompt: str, *, image: bool) -> Path:
        """Where the entry of a prompt is, or would be."""
        template = asdict(self.card.image_template if image else self.card.prompt_template)
        key = json.dumps([prompt.strip(), template, self.encoders], sort_keys=True)
        return self.folder / f"{hashlib.sha256(key.encode()).hexdigest()}.safetensors"

    def _make_room(self, newest: Path) -> None:
        """Remove the entries used longest ago until the others fit, and what killed processes left."""
        for part in self.folder.glob(".*.part"):
            with contextlib.suppress(OSError):
                if time.time() - part.stat().st_mtime > ABANDONED_S:
                    part.unlink()
        entries = sorted(self._entries(), reverse=True)
        room = self.limit_bytes
        for _, nbytes, path in entries:
            room -= nbytes
            if room < 0 and path != newest:
                path.unlink(missing_ok=True)

    def _entries(self) -> list[tuple[int, int, Path]]:
        """Time of last use, size and path; another process may remove an entry at any time."""
        found = []
        for path in self.folder.glob("*.safetensors"):
            with contextlib.suppress(FileNotFoundError):
                state = path.stat()
                found.append((state.st_mtime_ns, state.st_size, path))
        return found

    def _note(self, text: str) -> None:
        self.on_event(Note("warning", f"prompt cache: {text}"))


def _packed(key: str, embeds: PromptEmbeds) -> list[bytes]:
    """The parts of a safetensors file."""
    tensors = {name: getattr(embeds, name).detach().cpu() for name in NAMES}
    data = [tensor_bytes(tensor) for tensor in tensors.values()]
    header: dict[str, Any] = {}
    begin = 0
    for (name, tensor), part in zip(tensors.items(), data, strict=True):
        end = begin + len(part)
        header[name] = {"dtype": _TYPES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [begin, end]}
        begin = end
    # Places in the prompt, not its words.
    cuts = [{**asdict(replace(cut, kept="", cut="")), "place": len(cut.kept)} for cut in embeds.truncations]
    metadata = {"key": key, "truncations": json.dumps(cuts)}
    metadata["sha256"] = _checksum(metadata, tensors)
    return [pack_header({"__metadata__": metadata, **header}), *data]


def _read(path: Path, text: str) -> PromptEmbeds:
    """The entry, all of it checked; CheckpointError where it is not what was written under this name."""
    with open_safetensors(path) as file:
        if sorted(file.names()) != sorted(NAMES) or file.metadata.get("key") != path.stem:
            raise CheckpointError(f"{path} is another file")
        tensors = {name: file.read(name) for name in NAMES}
        if _checksum(file.metadata, tensors) != file.metadata.get("sha256"):
            raise CheckpointError(f"{path} does not match its checksum: damaged on disk")
        return PromptEmbeds(**tensors, truncations=_truncations(file, text), cached=True)


def _truncations(file: SafetensorsFile, text: str) -> tuple[Truncation, ...]:
    try:
        cuts = parse_json(file.metadata["truncations"].encode())
        return tuple(
            Truncation(**{**cut, "kept": text[:place], "cut": text[place:]})
            for cut, place in ((cut, cut.pop("place")) for cut in cuts)
        )
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise CheckpointError(f"{file.path}: no record of where the prompt was cut ({error})") from None


def _checksum(metadata: Mapping[str, str], tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 (hex) of the tensors and of all that is said about them."""
    said = [metadata.get("key"), metadata.get("truncations")]
    digest = hashlib.sha256(json.dumps(said).encode())
    for name in NAMES:
        tensor = tensors[name]
        digest.update(json.dumps([name, str(tensor.dtype), list(tensor.shape)]).encode() + tensor_bytes(tensor))
    return digest.hexdigest()
