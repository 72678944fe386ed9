"""Which model made a video: a hash that tells two models apart without reading gigabytes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ..errors import CheckpointError
from ..quantize.readers.locate import ModelFiles
from ..quantize.readers.sharded_file import read_index

SAMPLE_BYTES = 1 << 20


def model_fingerprint(files: ModelFiles, model_config: Mapping[str, Any] | None = None) -> str:
    """SHA-256 (hex, 16 digits) over every weight file's size, first and last MiB, and over the small config files.

    Names and folders do not count: a moved model is the same model. Two checkpoints of one architecture differ in
    their last MiB unless the weights there are equal; a full hash of 40 GB would cost more than a short video.
    """
    digest = hashlib.sha256(json.dumps(model_config, sort_keys=True, default=str).encode())
    for path in _files(files):
        _add(digest, path)
    return digest.hexdigest()[:16]


def _files(files: ModelFiles) -> Iterator[Path]:
    for part in (files.transformer, files.vae, files.text_encoder, files.text_encoder_2):
        if part is not None:
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
