"""What a conversion reads: the open parts of the source, and all that decides the bytes of the output."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from ..errors import CheckpointError, ConfigError
from .fingerprint import fingerprint_files
from .lora import Lora
from .manifest import FORMAT_VERSION
from .options import QuantizeOptions
from .plan import CARD_NAME, FilePlan, Sources
from .readers.locate import ModelFiles
from .readers.text_source import open_text_encoder, open_text_encoder_2
from .readers.transformer_source import open_transformer
from .readers.vae_source import open_vae
from .recipe import PARTS, Recipe

ARITHMETIC_VERSION = 1  # of the encoders: a folder made with another one is not gone on with


def check_folders(options: QuantizeOptions) -> None:
    """Decided before anything is opened: the output must not be the source, inside it, or around it."""
    source, output = options.source.expanduser().resolve(), options.output.expanduser().resolve()
    if source == output or source in output.parents or output in source.parents:
        raise ConfigError(
            f"the output {output} and the source {source} lie in each other", hint="choose another output folder"
        )
    if output.exists() and not output.is_dir():
        raise ConfigError(
            f"{output} is a file; expected a folder, or a name that is free", hint="choose another OUTPUT"
        )


def open_sources(files: ModelFiles, options: QuantizeOptions, stack: ExitStack) -> Sources:
    """Open the parts that are wanted, and close them with `stack`. Raises CheckpointError, ConfigError."""
    if files.layout == "hvlite":
        raise ConfigError(f"{files.root} is quantized already", hint="convert from the checkpoint it was made of")
    wanted = options.parts or PARTS
    sources = Sources()
    if "transformer" in wanted:
        sources.transformer = stack.enter_context(open_transformer(files, config=options.model_config))
    if "text_encoder" in wanted:
        sources.text_encoder = stack.enter_context(open_text_encoder(files))
        sources.tokenizers["tokenizer"] = _required(files.tokenizer, files.root, "tokenizer")
    if "text_encoder_2" in wanted:
        sources.text_encoder_2 = stack.enter_context(open_text_encoder_2(files))
        sources.tokenizers["tokenizer_2"] = _required(files.tokenizer_2, files.root, "tokenizer_2")
    if "vae" in wanted:
        sources.vae = stack.enter_context(open_vae(files))
    return sources


def _required(folder: Path | None, root: Path, name: str) -> Path:
    if folder is None:
        raise CheckpointError(f"{root} has no {name} files", hint="copy them beside the text encoders' weights")
    return folder


def find_card(files: ModelFiles, given: Path) -> Path | None:
    """The model's own defaults: beside what was named, or in the model's folder."""
    folders = (given if given.is_dir() else given.parent, files.root)
    return next((folder / CARD_NAME for folder in folders if (folder / CARD_NAME).is_file()), None)


def make_settings(sources: Sources, recipe: Recipe, loras: tuple[Lora, ...], plan: list[FilePlan]) -> dict[str, Any]:
    """All that decides the bytes of the output, as plain JSON and without a path of this machine."""
    parts = [part for part in PARTS if getattr(sources, part) is not None]
    small = {file.path: file.content for file in plan if not file.weights}
    settings = {
        "format_version": FORMAT_VERSION,
        "arithmetic_version": ARITHMETIC_VERSION,
        "recipe": {part: recipe[part].to_json() for part in parts},
        "source": {part: fingerprint_files(sources.of(part).paths) for part in parts},
        "loras": [lora.to_json() for lora in loras],
        "other_files": _sha256_of(small),
    }
    normalized: dict[str, Any] = json.loads(json.dumps(settings))
    return normalized


def _sha256_of(contents: Mapping[str, bytes]) -> str:
    """One hash of several small files."""
    digest = hashlib.sha256()
    for name, content in contents.items():
        digest.update(f"{name}\0{len(content)}\0".encode() + content)
    return digest.hexdigest()
