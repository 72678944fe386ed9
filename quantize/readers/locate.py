"""Finds the parts of a model in a folder, or in a single file: `locate(path)`.

Looks at names and configs only; imports no torch.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from ...errors import CheckpointError
from ...files import read_json
from .unfinished import refuse_without_manifest

Layout = Literal["official", "diffusers", "single_file", "hvlite"]
WEIGHT_SUFFIXES = (".safetensors", ".pt", ".pth", ".bin", ".ckpt")
MANIFEST = "hvlite.json"
_PREFERRED = (
    "diffusion_pytorch_model.safetensors.index.json",
    "diffusion_pytorch_model.safetensors",
    "model.safetensors.index.json",
    "model.safetensors",
    "mp_rank_00_model_states.pt",
    "pytorch_model_module.pt",
    "pytorch_model.pt",
    "pytorch_model.bin.index.json",
    "pytorch_model.bin",
)
_EXPECTED = "expected an official tree, a diffusers tree, one part's folder or a weights file"


@dataclass(frozen=True)
class WeightFiles:
    """Where one part's weights are: a file or an index of shards, and the config.json beside them."""

    path: Path
    config: Path | None = None

    @property
    def is_index(self) -> bool:
        return self.path.name.endswith(".index.json")


@dataclass(frozen=True)
class ModelFiles:
    """Where the parts of a model are. A part that is not there is None.

    `hvlite`: a quantized folder, only `root` is set.
    """

    layout: Layout
    root: Path
    transformer: WeightFiles | None = None
    vae: WeightFiles | None = None
    text_encoder: WeightFiles | None = None
    text_encoder_2: WeightFiles | None = None
    tokenizer: Path | None = None
    tokenizer_2: Path | None = None


def locate(path: Path | str, dit_weight: Path | str | None = None, resolution: str = "720p") -> ModelFiles:
    """The parts of the model at `path`: a folder (official, diffusers, hvlite, one part's) or a weights file.

    `dit_weight` replaces the transformer by another file, or by the one in another folder. `resolution` chooses
    between several official `hunyuan-video-t2v-<resolution>` folders. Raises CheckpointError where nothing is found.
    """
    path = existing(path)
    found = (
        _locate_folder(path, resolution) if path.is_dir() else ModelFiles("single_file", path.parent, weight_file(path))
    )
    if dit_weight is not None:
        found = replace(found, transformer=_choose_transformer(existing(dit_weight)))
    return found


def existing(path: Path | str) -> Path:
    """The path of something that is there, `~` expanded; anything else is a CheckpointError."""
    try:
        found = Path(path).expanduser()
        is_there = found.exists()
    except (OSError, ValueError, RuntimeError) as error:
        raise CheckpointError(f"{str(path)!r:.200} is not a usable path: {error}") from error
    if not is_there:
        raise CheckpointError(f"{found} does not exist", hint=_EXPECTED)
    return found


def weight_file(path: Path) -> WeightFiles:
    """One weights file (or index of shards) with the config.json that lies beside it."""
    config = path.parent / "config.json"
    return WeightFiles(path, config if config.is_file() else None)


def _locate_folder(folder: Path, resolution: str) -> ModelFiles:
    if (folder / MANIFEST).is_file():
        return _hvlite_folder(folder)
    refuse_without_manifest(folder)
    if (folder / "model_index.json").is_file() or _weights_in(folder / "transformer"):
        return _diffusers_tree(folder)
    model = _official_model(folder, resolution)
    if model:
        return _official_tree(model)
    return _one_part(folder)


def _hvlite_folder(root: Path) -> ModelFiles:
    """The transformer's files are named by the manifest; the other parts are where a diffusers tree has them."""
    return ModelFiles(
        "hvlite",
        root,
        transformer=WeightFiles(root / MANIFEST),
        vae=_weights_in(root / "vae"),
        text_encoder=_weights_in(root / "text_encoder"),
        text_encoder_2=_weights_in(root / "text_encoder_2"),
        tokenizer=_tokenizer(root / "tokenizer"),
        tokenizer_2=_tokenizer(root / "tokenizer_2"),
    )


def _diffusers_tree(root: Path) -> ModelFiles:
    return ModelFiles(
        "diffusers",
        root,
        transformer=_weights_in(root / "transformer"),
        vae=_weights_in(root / "vae"),
        text_encoder=_weights_in(root / "text_encoder"),
        text_encoder_2=_weights_in(root / "text_encoder_2"),
        tokenizer=_tokenizer(root / "tokenizer", root / "text_encoder"),
        tokenizer_2=_tokenizer(root / "tokenizer_2", root / "text_encoder_2"),
    )


def _official_model(folder: Path, resolution: str) -> Path | None:
    """The folder with `transformers/` and `vae/` of an official tree: `folder` itself, or one below it."""
    for pattern in (".", "*", "ckpts/*"):
        models = [folder] if pattern == "." else _sorted(folder.glob(pattern))
        found = [path for path in models if _weights_in(path / "transformers")]
        found = found or [path for path in models if _weights_in(path / "vae")]  # the transformer is elsewhere
        if len(found) > 1:
            found = [path for path in found if "t2v" in path.name and resolution in path.name] or found
        if len(found) > 1:
            names = ", ".join(path.name for path in found)
            raise CheckpointError(
                f"{folder} holds several models: {names}", hint="give the folder of one, or --dit-weight"
            )
        if found:
            return found[0]
    return None


def _official_tree(model: Path) -> ModelFiles:
    above = model.parent if model.name not in ("", "..") else model.resolve().parent
    root = model if (model / "text_encoder").is_dir() else above
    return ModelFiles(
        "official",
        root,
        transformer=_weights_in(model / "transformers"),
        vae=_weights_in(model / "vae"),
        text_encoder=_weights_in(root / "text_encoder"),
        text_encoder_2=_weights_in(root / "text_encoder_2"),
        tokenizer=_tokenizer(root / "tokenizer", root / "text_encoder"),
        tokenizer_2=_tokenizer(root / "tokenizer_2", root / "text_encoder_2"),
    )


def _one_part(folder: Path) -> ModelFiles:
    """A folder with the weights of one part, told apart by its config.json.

    Without one it is taken for the transformer.
    """
    weights = _weights_in(folder)
    if weights is None:
        raise CheckpointError(f"{folder} holds no model", hint=_EXPECTED)
    kind = _part_kind(weights.config)
    layout: Layout = "diffusers" if weights.path.name.startswith("diffusion_pytorch_model") else "official"
    files = ModelFiles(layout, folder)
    tokenizer = _tokenizer(folder, folder.resolve().parent / kind.replace("text_encoder", "tokenizer"))
    match kind:
        case "vae":
            return replace(files, vae=weights)
        case "text_encoder":
            return replace(files, text_encoder=weights, tokenizer=tokenizer)
        case "text_encoder_2":
            return replace(files, text_encoder_2=weights, tokenizer_2=tokenizer)
    return replace(files, transformer=weights)


def _part_kind(config: Path | None) -> str:
    value: Any = read_json(config) if config else {}
    if not isinstance(value, dict):
        return "transformer"
    if str(value.get("_class_name", "")).startswith("AutoencoderKL"):
        return "vae"
    kind = str(value.get("model_type", ""))
    if kind in ("llama", "llava"):
        return "text_encoder"
    return "text_encoder_2" if kind.startswith("clip") else "transformer"


def _choose_transformer(path: Path) -> WeightFiles:
    if not path.is_dir():
        return weight_file(path)
    for folder in (path, path / "transformers", path / "transformer"):
        if weights := _weights_in(folder):
            return weights
    raise CheckpointError(f"{path} holds no transformer weights", hint="give the .pt or .safetensors file itself")


def _weights_in(folder: Path) -> WeightFiles | None:
    """The weights of a part's folder: a well-known name, else the only candidate.

    Of a plain and an fp8 file the plain one.
    """
    for name in _PREFERRED:
        if (folder / name).is_file():
            return weight_file(folder / name)
    found = [path for path in _sorted(folder.glob("*")) if _is_candidate(path)]
    found = [path for path in found if "_model_states" in path.name] or found  # the official loader's rule
    if len(found) > 1:
        found = [path for path in found if "fp8" not in path.stem] or found
    if len(found) > 1:
        names = ", ".join(path.name for path in found[:5])
        raise CheckpointError(
            f"{folder} holds several weight files: {names}", hint="give the one to use, with --dit-weight"
        )
    return weight_file(found[0]) if found else None


def _is_candidate(path: Path) -> bool:
    is_weights = path.suffix in WEIGHT_SUFFIXES or path.name.endswith(".safetensors.index.json")
    return is_weights and not path.stem.endswith("_map") and not path.name.startswith(".") and path.is_file()


def _sorted(paths: Iterable[Path]) -> list[Path]:
    return sorted(path for path in paths if not path.name.startswith("."))


def _tokenizer(*folders: Path) -> Path | None:
    names = ("tokenizer.json", "vocab.json")
    return next((folder for folder in folders if any((folder / name).is_file() for name in names)), None)
