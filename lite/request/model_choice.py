"""Which model a command line means: a folder or a file that is there and looks like a model. No weight is read."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ...errors import CheckpointError, ConfigError, MissingPartError
from ...quantize.readers.locate import ModelFiles, locate
from ..card import demo_root
from .output_checks import check_path_text

RESOLUTIONS = ("540p", "720p")


@dataclass(frozen=True)
class ModelChoice:
    """`given`: what the user named (None: the model that ships with hvlite), `root`: where that is."""

    given: Path | None
    root: Path
    dit_weight: Path | None
    files: ModelFiles


def choose_model(
    model: Path | None, dit_weight: Path | None, *, use_fp8: bool, resolution: str | None = None
) -> ModelChoice:
    """Resolve and check the model; raises ConfigError for a wrong path and CheckpointError for one that is no model."""
    if model is None and (dit_weight is not None or use_fp8):
        raise ConfigError(
            f"{'--dit-weight' if dit_weight else '--use-fp8'} needs the rest of the model",
            hint="--model-base FOLDER names it (text encoders and VAE)",
        )
    for path, what in ((model, "--model"), (dit_weight, "--dit-weight")):
        if path is not None:
            _check_there(path, what)
    model = _of_resolution(model, resolution)
    root = _shipped_root() if model is None else model
    if use_fp8:
        dit_weight = _fp8_weight(root, dit_weight)
    files = locate(root, dit_weight=dit_weight)
    check_parts(files, root)
    return ModelChoice(model, root, dit_weight, files)


def check_parts(files: ModelFiles, root: Path) -> None:
    """Raise CheckpointError where a part that makes a video is missing from the model's folder."""
    parts = {
        "transformer": files.transformer,
        "VAE": files.vae,
        "language model (text_encoder)": files.text_encoder,
        "CLIP text encoder (text_encoder_2)": files.text_encoder_2,
        "tokenizer": files.tokenizer,
        "CLIP tokenizer": files.tokenizer_2,
    }
    missing = [name for name, part in parts.items() if part is None]
    if missing:
        raise CheckpointError(
            f"{root}: no {', no '.join(missing)}",
            hint="--model takes the folder with all parts; --dit-weight names another transformer file",
        )


def _of_resolution(model: Path | None, resolution: str | None) -> Path | None:
    """The folder of one of several official models; a model that has one set of weights uses it for all sizes."""
    if resolution not in (None, *RESOLUTIONS):
        raise ConfigError(f"--model-resolution {resolution}: not known", hint=f"one of {', '.join(RESOLUTIONS)}")
    folder = model / f"hunyuan-video-t2v-{resolution}" if model is not None else None
    return folder if folder is not None and folder.is_dir() else model


def _shipped_root() -> Path:
    root = demo_root()
    if not root.is_dir():
        raise MissingPartError(
            f"the small model that ships with hvlite is not in this installation ({root})",
            hint="install hvlite from its wheel, or name another model with --model FOLDER",
        )
    return root


def _check_there(path: Path, what: str) -> None:
    check_path_text(path, what)
    try:
        there = path.exists()
    except OSError as error:
        raise ConfigError(f"{what} {path}: {error.strerror}", hint="give the model's folder") from None
    if not there:
        raise ConfigError(f"{what} {path}: no such file or folder", hint="check the path; a model is a folder")


def _fp8_weight(root: Path, dit_weight: Path | None) -> Path:
    """The fp8 file named, or the one beside the plain transformer, with the file of its scales."""
    plain = None if dit_weight else locate(root).transformer
    weight = dit_weight or (plain.path.with_name(f"{plain.path.stem}_fp8.pt") if plain else root)
    if not weight.is_file():
        raise ConfigError(f"--use-fp8: {weight} is not there", hint="--dit-weight names the fp8 file")
    scales = weight.with_name(weight.name.replace(".pt", "_map.pt"))
    if weight.suffix == ".pt" and not scales.is_file():
        raise CheckpointError(
            f"--use-fp8: {scales} is not there", hint="it holds the scales and comes with the fp8 file"
        )
    return weight
