"""The hvlite folder as a source of named weights. docs/format.md describes the folder byte by byte.

Nothing in it is trusted: names, sizes, element types and shapes are checked against the architecture before a weight is
read.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import CheckpointError
from ..files import read_json
from .architecture import TransformerConfig
from .manifest import (
    FORMAT_VERSION,
    PICTURE,
    REPORT,
    SKIP_KEY,
    Manifest,
    StoredFile,
    complete_architecture,
    read_manifest,
    require_modest,
    stored_path,
)
from .readers.folder_source import HvliteSource
from .readers.locate import MANIFEST
from .readers.safetensors_file import SafetensorsFile, open_safetensors
from .readers.shapes import expected_llama_shapes, expected_transformer_shapes

__all__ = [
    "FORMAT_VERSION",
    "MANIFEST",
    "PICTURE",
    "REPORT",
    "HvliteSource",
    "HvliteTextEncoder",
    "HvliteTransformer",
    "Manifest",
    "StoredFile",
    "open_hvlite_text_encoder",
    "open_hvlite_transformer",
    "read_manifest",
    "stored_path",
]
LLAMA_FIELDS = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "vocab_size")


class HvliteTransformer(HvliteSource):
    """The transformer of an hvlite folder."""

    config: TransformerConfig


class HvliteTextEncoder(HvliteSource):
    """The language model of an hvlite folder; `config` is its config.json.

    `skipped_layers`: how many of its layers come after the state that is used; 0, as they are left out.
    """

    config: dict[str, Any]
    skipped_layers: int


def open_hvlite_transformer(root: Path | str, *, config: Mapping[str, Any] | None = None) -> HvliteTransformer:
    """Open the transformer of an hvlite folder; no weight is read. Raises CheckpointError.

    `config` completes the architecture where the source did not say all; ConfigError where it contradicts it.
    """
    root = Path(root)
    manifest = read_manifest(root)
    if manifest.architecture is None:
        raise CheckpointError(f"{root} has no transformer", hint="it was left out when the folder was made")
    architecture = complete_architecture(manifest.architecture, config or {})
    shapes = expected_transformer_shapes(architecture)
    files = _open_files(root, manifest, "transformer")
    try:
        source = HvliteTransformer(root, files, shapes, manifest.schemes.get("transformer", {}))
    except BaseException:
        _close(files)
        raise
    source.config = architecture
    return source


def open_hvlite_text_encoder(root: Path | str) -> HvliteTextEncoder:
    """Open the language model of an hvlite folder; no weight is read. Raises CheckpointError."""
    root = Path(root)
    manifest = read_manifest(root)
    path = stored_path(root, "text_encoder/config.json")
    config = read_json(path)
    try:
        require_modest({name: config[name] for name in LLAMA_FIELDS})
        shapes = expected_llama_shapes({"num_key_value_heads": config["num_attention_heads"], **config})
        skipped = int(config[SKIP_KEY])
    except (KeyError, TypeError, ValueError, ZeroDivisionError) as error:
        raise CheckpointError(
            f"{path} describes no language model: {error!r}", hint="convert the model again"
        ) from error
    files = _open_files(root, manifest, "text_encoder")
    try:
        source = HvliteTextEncoder(root, files, shapes, manifest.schemes.get("text_encoder", {}))
    except BaseException:
        _close(files)
        raise
    source.config = config
    source.skipped_layers = skipped
    return source


def _open_files(root: Path, manifest: Manifest, part: str) -> list[SafetensorsFile]:
    names = [name for name in manifest.files if name.startswith(f"{part}/") and name.endswith(".safetensors")]
    opened: list[SafetensorsFile] = []
    try:
        for name in names:
            path = stored_path(root, name)
            if path.stat().st_size != manifest.files[name].nbytes:
                raise CheckpointError(
                    f"{path} is {path.stat().st_size:,} bytes long; hvlite.json says {manifest.files[name].nbytes:,}",
                    hint="the file is damaged; copy it again, or convert the model again",
                )
            opened.append(open_safetensors(path))
    except BaseException:
        _close(opened)
        raise
    return opened


def _close(files: list[SafetensorsFile]) -> None:
    for file in files:
        file.close()
