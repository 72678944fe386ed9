"""`hvlite verify`: is the folder what its manifest says, are its scales usable, and how far is it from the original?"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ..errors import CheckpointError
from ..files import sha256_file
from .encode import SLICE_ELEMENTS, check_usable
from .format import MANIFEST, HvliteSource, Manifest, open_hvlite_text_encoder, open_hvlite_transformer, read_manifest
from .lora import Lora, open_loras
from .manifest import stored_path
from .quality import ErrorSums, Quality
from .readers.text_source import open_text_encoder, open_text_encoder_2
from .readers.transformer_source import TransformerSource, open_transformer
from .readers.unfinished import WORK_FOLDER
from .readers.vae_source import open_vae
from .readers.weight_source import WeightSource

# A weight is stored as the original's or it is not; these are the largest relative errors any scheme leaves.
LARGEST_ERROR = {"fp8": 0.08, "int8": 0.05, "int4": 0.4, "nf4": 0.4, "bf16": 0.005, "fp16": 0.005, "fp32": 1e-6}


@dataclass(frozen=True)
class LayerError:
    """A weight against the original it was made from."""

    part: str
    name: str
    scheme: str
    quality: Quality

    @property
    def wrong(self) -> bool:
        """Whether rounding cannot explain the difference."""
        return self.quality.relative_error > LARGEST_ERROR[self.scheme]


@dataclass(frozen=True)
class VerifyResult:
    """What was found: every problem in words, the files read, and with a source the error of every weight."""

    problems: tuple[str, ...]
    files: int
    nbytes: int
    weights: int
    errors: tuple[LayerError, ...] = ()

    @property
    def ok(self) -> bool:
        return not self.problems

    def to_json(self) -> dict[str, Any]:
        layers = [{"part": e.part, "name": e.name, "scheme": e.scheme, **e.quality.to_json()} for e in self.errors]
        return {
            "ok": self.ok,
            "problems": list(self.problems),
            "files": self.files,
            "bytes": self.nbytes,
            "weights": self.weights,
            "layers": layers,
        }


OnFile = Callable[[str], None]


def run_verify(
    folder: Path, source: Path | None = None, loras: tuple[str, ...] = (), on_file: OnFile = lambda _: None
) -> VerifyResult:
    """Read everything once. CheckpointError only where there is no manifest to compare with; the rest is reported.

    `source`: the checkpoint the folder was made from, and `loras` what was merged into it then.
    """
    manifest = read_manifest(folder)
    problems = [*_check_files(folder, manifest, on_file), *_strangers(folder, manifest)]
    weights, errors = 0, []
    if not problems:
        for part, opened in _parts(folder, manifest):
            with opened:
                weights += len(opened.names())
                problems += _check_weights(opened, on_file)
                if source is not None:
                    compared, other = _compare(part, opened, source, loras, on_file)
                    errors += compared
                    problems += other
    problems += [f"{e.part}/{e.name}: {e.quality.relative_error:.3f} away from the source" for e in errors if e.wrong]
    nbytes = sum(file.nbytes for file in manifest.files.values())
    return VerifyResult(tuple(problems), len(manifest.files), nbytes, weights, tuple(errors))


def _check_files(folder: Path, manifest: Manifest, on_file: OnFile) -> Iterator[str]:
    """Size and hash of every file; hashes run on all cores."""

    def check(name: str) -> str | None:
        stored = manifest.files[name]
        try:
            path = stored_path(folder, name)
            size = path.stat().st_size
            if size != stored.nbytes:
                return f"{name} is {size:,} bytes long; {MANIFEST} says {stored.nbytes:,}"
            return None if sha256_file(path) == stored.sha256 else f"{name} has other bytes than {MANIFEST} says"
        except CheckpointError as error:
            return error.message

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for name, problem in zip(manifest.files, pool.map(check, manifest.files), strict=True):
            on_file(name)
            if problem:
                yield problem


def _strangers(folder: Path, manifest: Manifest) -> Iterator[str]:
    """Files that the manifest does not name, as far as they could be taken for the model's."""
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if name.split("/")[0] == WORK_FOLDER:
            if path.is_file():
                yield f"{name} is left from an unfinished run; run `hvlite quantize` again"
        elif path.suffix == ".safetensors" and name not in manifest.files:
            yield f"{name} is not named in {MANIFEST}"


def _parts(folder: Path, manifest: Manifest) -> Iterator[tuple[str, HvliteSource | WeightSource]]:
    """The weights of every part the folder has."""
    present = {name.split("/")[0] for name in manifest.files}
    openers: Mapping[str, Callable[[Path], HvliteSource | WeightSource]] = {
        "transformer": open_hvlite_transformer,
        "text_encoder": open_hvlite_text_encoder,
        "text_encoder_2": lambda root: open_text_encoder_2(root / "text_encoder_2"),
        "vae": lambda root: open_vae(root / "vae"),
    }
    for part, opener in openers.items():
        if part in present:
            yield part, opener(folder)


def _check_weights(source: HvliteSource | WeightSource, on_file: OnFile) -> Iterator[str]:
    """Finite weights and positive, finite scales."""
    for name in source.names():
        on_file(name)
        try:
            _check_weight(source, name)
        except CheckpointError as error:
            yield error.message


def _check_weight(source: HvliteSource | WeightSource, name: str) -> None:
    scheme = source.scheme(name).name if isinstance(source, HvliteSource) else ""
    if isinstance(source, HvliteSource) and scheme in ("fp8", "int8"):
        codes, _ = source.read_scaled(name)
        if scheme == "fp8":
            check_usable(name, codes, source.path_of(name))
    elif isinstance(source, HvliteSource) and scheme == "nf4":
        source.read_nf4(name)
    elif isinstance(source, HvliteSource) and scheme == "int4":
        check_usable(f"{name}_scale", source.read_parts(name)["_scale"], source.path_of(name))
    else:
        check_usable(name, source.read(name), source.path_of(name))


def _compare(
    part: str, stored: HvliteSource | WeightSource, source: Path, loras: tuple[str, ...], on_file: OnFile
) -> tuple[list[LayerError], list[str]]:
    """Every weight of a part against the source's; a problem where the source is another model."""
    openers: Mapping[str, Callable[[Path], WeightSource]] = {
        "transformer": open_transformer,
        "text_encoder": open_text_encoder,
        "text_encoder_2": open_text_encoder_2,
        "vae": open_vae,
    }
    errors, problems = [], []
    with openers[part](source) as original:
        merged = open_loras(loras, original) if isinstance(original, TransformerSource) else ()
        shapes = {name: original.info(name).shape for name in original.names()}
        for name in stored.names():
            on_file(name)
            if shapes.get(name) != stored.info(name).shape:
                problems.append(
                    f"{part}/{name}: the source has {shapes.get(name)}, the folder {stored.info(name).shape}"
                )
                break
            scheme = stored.scheme(name).name if isinstance(stored, HvliteSource) else _kept_scheme(stored, name)
            errors.append(LayerError(part, name, scheme, _error(stored, original, name, merged)))
    return errors, problems


def _kept_scheme(source: WeightSource, name: str) -> str:
    return {"BF16": "bf16", "F16": "fp16"}.get(source.info(name).dtype, "fp32")


def _error(stored: HvliteSource | WeightSource, original: WeightSource, name: str, loras: tuple[Lora, ...]) -> Quality:
    sums = ErrorSums()
    wanted, found = original.read_dequantized(name, torch.float32), stored.read_dequantized(name, torch.float32)
    for lora in loras:
        if lora.touches(name):
            lora.add_to(wanted, name)
    for one, other in zip(
        wanted.reshape(-1).split(SLICE_ELEMENTS), found.reshape(-1).split(SLICE_ELEMENTS), strict=True
    ):
        sums.add(one, other)
    return sums.quality()
