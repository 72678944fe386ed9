"""Several weight files read as one: the shards that an index.json lists, each name in exactly one of them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ...errors import CheckpointError
from ...files import read_json, safe_member
from .magic import REDOWNLOAD
from .safetensors_file import open_safetensors
from .tensor_file import MAX_TENSORS, TensorFile, TensorInfo
from .torch_file import open_torch

if TYPE_CHECKING:
    import torch

TORCH_SUFFIXES = (".pt", ".pth", ".bin", ".ckpt")
MAX_SHARDS = 256


class ShardedFile:
    """The tensors of several files under one roof; same interface as a single file."""

    def __init__(self, files: list[TensorFile], owners: dict[str, TensorFile]) -> None:
        self._files = files
        self._owners = owners

    @property
    def paths(self) -> tuple[Path, ...]:
        return tuple(path for file in self._files for path in file.paths)

    @property
    def metadata(self) -> dict[str, str]:
        return self._files[0].metadata

    def names(self) -> list[str]:
        return list(self._owners)

    def info(self, name: str) -> TensorInfo:
        return self._owner(name).info(name)

    def read(self, name: str) -> torch.Tensor:
        return self._owner(name).read(name)

    def path_of(self, name: str) -> Path:
        return self._owner(name).path_of(name)

    def close(self) -> None:
        for file in self._files:
            file.close()

    def _owner(self, name: str) -> TensorFile:
        try:
            return self._owners[name]
        except KeyError:
            raise CheckpointError(f"{self.paths[0]} and its other shards have no tensor {name!r}") from None


def open_file(path: Path) -> TensorFile:
    """Open one weight file by its extension: safetensors, or torch's zip format for .pt, .pth, .bin and .ckpt."""
    return open_torch(path) if path.suffix in TORCH_SUFFIXES else open_safetensors(path)


def read_index(index: Path) -> dict[str, Path]:
    """The shard of every tensor that an index.json lists. Only plain names of files beside the index are followed."""
    value = read_json(index)
    names = value.get("weight_map") if isinstance(value, dict) else None
    if not isinstance(names, dict) or not names:
        raise CheckpointError(f"{index} has no weight_map that says which file holds which tensor", hint=REDOWNLOAD)
    if len(names) > MAX_TENSORS:
        raise CheckpointError(f"{index} lists {len(names)} tensors; at most {MAX_TENSORS} are read")
    shards: dict[object, Path] = {}
    for shard in names.values():
        if not isinstance(shard, str) or shard not in shards:
            shards[shard] = safe_member(index.parent, shard)
    if len(shards) > MAX_SHARDS:
        raise CheckpointError(f"{index} lists {len(shards)} files; at most {MAX_SHARDS} are read")
    return {name: shards[shard] for name, shard in names.items()}


def open_shards(index: Path) -> ShardedFile:
    """Open every shard and check that each holds exactly the tensors the index says. Raises CheckpointError."""
    places = read_index(index)
    opened: dict[Path, TensorFile] = {}
    try:
        for path in dict.fromkeys(places.values()):
            opened[path] = open_file(path)
        _check_places(index, places, opened)
    except BaseException:
        for file in opened.values():
            file.close()
        raise
    return ShardedFile(list(opened.values()), {name: opened[path] for name, path in places.items()})


def _check_places(index: Path, places: dict[str, Path], opened: dict[Path, TensorFile]) -> None:
    held = {path: set(file.names()) for path, file in opened.items()}
    for name, path in places.items():
        if name not in held[path]:
            raise CheckpointError(f"{path} has no tensor {name!r}, which {index.name} says it has", hint=REDOWNLOAD)
    for path, names in held.items():
        for name in sorted(names):
            if places.get(name) != path:
                raise CheckpointError(f"{path} holds {name!r}, which {index.name} does not say", hint=REDOWNLOAD)
