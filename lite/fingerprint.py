"""Which model made a video: a hash that tells two models apart without reading gigabytes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ..errors import CheckpointError
from ..files import sha256_file
from ..quantize.readers.locate import MANIFEST, ModelFiles, WeightFiles
from ..quantize.readers.sharded_file import read_index

SAMPLE_BYTES = 1 << 20
TOKENIZER_FILES = ("tokenizer.json", "vocab.json", "merges.txt", "tokenizer_config.json", "special_tokens_map.json")


def model_fingerprint(files: ModelFiles, model_config: Mapping[str, Any] | None = None) -> str:
    """SHA-256 (hex, 16 digits) over every weight file's size, first and last MiB, and over the small config files.

    Names and folders do not count: a moved model is the same model. Two checkpoints of one architecture differ in
    their last MiB unless the weights there are equal; a full hash of 40 GB would cost more than a short video.
    """
    digest = hashlib.sha256(json.dumps(model_config, sort_keys=True, default=str).encode())
    for path in _files(files):
        _add(digest, path)
    return digest.hexdigest()[:16]


def encoders_fingerprint(files: ModelFiles, how: Mapping[str, str]) -> str:
    """SHA-256 (hex) over the text encoders, their tokenizers, and `how` they compute: what embeddings depend on.

    Weights as in `model_fingerprint`, and with the times of their last change: an edit in their middle counts as well.
    """
    digest = hashlib.sha256(json.dumps(how, sort_keys=True).encode())
    for path in _encoder_files(files):
        _add(digest, path)
        digest.update(path.stat().st_mtime_ns.to_bytes(8, "little"))
    for folder in (files.tokenizer, files.tokenizer_2):
        for path in () if folder is None else [folder / name for name in TOKENIZER_FILES]:
            digest.update(sha256_file(path).encode() if path.is_file() else b"-")
    return digest.hexdigest()


def _encoder_files(files: ModelFiles) -> Iterator[Path]:
    if files.layout == "hvlite":
        yield files.root / MANIFEST  # has the hash of every file
    for part in (files.text_encoder, files.text_encoder_2):
        yield from () if part is None else _part_files(part)


def _files(files: ModelFiles) -> Iterator[Path]:
    for part in (files.transformer, files.vae, files.text_encoder, files.text_encoder_2):
        if part is not None:
            yield from _part_files(part)


def _part_files(part: WeightFiles) -> Iterator[Path]:
    yield part.path
    if part.is_index:
        yield from sorted(set(read_index(part.path).values()))
    if part.config is not None:
        yield part.config


def _add(digest: hashlib._Hash, path: Path) -> None:
    try:
        with path.open("rb") as file:
            size = file.seek(0, 2)
            file.seek(0)
            head = file.read(SAMPLE_BYTES)
            file.seek(max(SAMPLE_BYTES, size - SAMPLE_BYTES))
            digest.update(size.to_bytes(8, "little") + head + file.read(SAMPLE_BYTES))
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror}", hint="check the model folder") from error
