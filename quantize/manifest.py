"""hvlite.json: what a folder holds, read strictly. It is written last: a folder that has one is complete."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from ..errors import CheckpointError, ConfigError
from ..files import read_json, safe_member
from .architecture import TransformerConfig
from .readers.locate import MANIFEST
from .readers.unfinished import refuse_without_manifest
from .scheme import SCHEMES

FORMAT_VERSION = 1
REPORT = "report.json"
PICTURE = "report.png"
SKIP_KEY = "hvlite_skipped_layers"  # in the language model's config.json
_MAKE = "hvlite quantize MODEL FOLDER makes one; check the path"
_SHA256 = re.compile(r"[0-9a-f]{64}")
_MAX_FILES = 4096
_MAX_LAYERS = 1024
_MAX_SIZE = 2**24


@dataclass(frozen=True)
class StoredFile:
    """Size and hash of a file of the folder."""

    nbytes: int
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """What hvlite.json says.

    settings: all that decided the bytes (recipe, source fingerprint, LoRAs, versions)
    architecture: the transformer's fields; None where the folder has no transformer
    schemes: part -> weight -> name of its scheme, for the weights that are quantized
    files: path inside the folder -> size and hash, of every file but hvlite.json
    """

    settings: Mapping[str, Any]
    architecture: TransformerConfig | None
    schemes: Mapping[str, Mapping[str, str]]
    files: Mapping[str, StoredFile]

    def bytes_of(self, part: str) -> int:
        """Bytes on disk of a part's folder."""
        return sum(file.nbytes for path, file in self.files.items() if path.startswith(f"{part}/"))


def read_manifest(root: Path | str) -> Manifest:
    """Read and check hvlite.json. CheckpointError naming the file and what is wrong."""
    path = Path(root) / MANIFEST
    if not path.exists():
        refuse_without_manifest(path.parent)
        raise CheckpointError(f"{root} is not a folder that hvlite quantize made: it has no {MANIFEST}", hint=_MAKE)
    value = read_json(path)
    if not isinstance(value, dict) or value.get("format") != "hvlite":
        raise CheckpointError(f"{path} is not the manifest of an hvlite model")
    if value.get("format_version") != FORMAT_VERSION:
        raise CheckpointError(
            f"{path} has format version {value.get('format_version')!r:.40}; this hvlite reads {FORMAT_VERSION}",
            hint="install the hvlite that made it, or convert the model again",
        )
    if value.get("sha256") != _own_hash(value):
        raise CheckpointError(
            f"{path} does not match the hash it carries of itself: damaged, or changed by hand",
            hint="copy it again, or convert the model again",
        )
    try:
        return Manifest(
            settings=_mapping(value["settings"]),
            architecture=_architecture(value["transformer"]),
            schemes={part: _schemes(weights) for part, weights in _mapping(value["schemes"]).items()},
            files={name: _stored_file(name, file) for name, file in _mapping(value["files"]).items()},
        )
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path} is damaged: {error}", hint="convert the model again") from error


def manifest_bytes(value: Mapping[str, Any]) -> bytes:
    """hvlite.json, with the hash of all it says as its last entry."""
    said = {key: item for key, item in value.items() if key != "sha256"}
    return (json.dumps({**said, "sha256": _own_hash(said)}, indent=1) + "\n").encode()


def _own_hash(value: Mapping[str, Any]) -> str:
    said = {key: item for key, item in value.items() if key != "sha256"}
    return hashlib.sha256(json.dumps(said, separators=(",", ":")).encode()).hexdigest()


def _mapping(value: object) -> dict[str, Any]:
    if not isinstance(value, dict) or len(value) > _MAX_FILES:
        raise ValueError(f"{value!r:.80} where an object was expected")
    return value


def _architecture(value: object) -> TransformerConfig | None:
    if value is None:
        return None
    known = {field.name for field in fields(TransformerConfig)}
    items = _mapping(value).items()
    given: dict[str, Any] = {name: tuple(item) if isinstance(item, list) else item for name, item in items}
    if given.keys() != known:
        raise ValueError(f"the transformer's fields are not {sorted(known ^ given.keys())}")
    require_modest(given)
    try:
        return TransformerConfig(**given)
    except ConfigError as error:
        raise ValueError(error.message) from error


def require_modest(fields: Mapping[str, Any]) -> None:
    """ValueError for numbers that no model has: tables are built from them before a file is looked at."""
    for name, value in fields.items():
        limit = _MAX_LAYERS if name.endswith(("depth", "layers")) else _MAX_SIZE
        for number in value if isinstance(value, tuple) else (value,):
            if isinstance(number, int | float) and not 0 <= number <= limit:
                raise ValueError(f"{name} is {number}")


def complete_architecture(stored: TransformerConfig, given: Mapping[str, Any]) -> TransformerConfig:
    """`stored` with what only `given` says. ConfigError for unknown fields and for contradictions."""
    values: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in given.items()}
    known = {field.name for field in fields(TransformerConfig)}
    for name, value in values.items():
        if name not in known:
            raise ConfigError(
                f"the model config has an unknown field {name!r}", hint=f"known are {', '.join(sorted(known))}"
            )
        if getattr(stored, name) not in (None, value):
            raise ConfigError(
                f"the model config says {name} = {value!r}; the quantized model has {getattr(stored, name)!r}",
                hint="leave the field out",
            )
    return replace(stored, **values)


def _schemes(value: object) -> dict[str, str]:
    schemes = _mapping(value)
    for name, scheme in schemes.items():
        if scheme not in SCHEMES:
            raise ValueError(f"the scheme {scheme!r:.40} of {name!r:.80} is not known")
    return schemes


def _stored_file(name: str, value: object) -> StoredFile:
    entry = _mapping(value)
    nbytes, sha256 = entry["bytes"], entry["sha256"]
    if type(nbytes) is not int or nbytes < 0 or not isinstance(sha256, str) or not _SHA256.fullmatch(sha256):
        raise ValueError(f"the entry of {name!r:.80} is not a size and a sha256")
    return StoredFile(nbytes, sha256)


def stored_path(root: Path, name: str) -> Path:
    """The file `name` ("folder/file" or "file") of a folder. CheckpointError for a path that leads elsewhere."""
    folder, _, file = name.rpartition("/")
    return safe_member(safe_folder(root, folder) if folder else root, file)


def safe_folder(root: Path, folder: str) -> Path:
    """A folder directly inside `root`."""
    path = root / folder
    if "/" in folder or folder in ("", ".", "..") or path.is_symlink() or not path.is_dir():
        raise CheckpointError(f"{root} refers to the folder {folder!r:.80}, which is not one inside it")
    return path
