"""What a file or folder holds: a video's settings, latents' settings, or a model's parts. No tensor is read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import CheckpointError, ConfigError
from ..quantize.readers.locate import ModelFiles, locate
from .card import load_card
from .output.frame_folder import SETTINGS_NAME
from .output.video_read import video_info
from .request.output_checks import check_path_text
from .request.preflight import read_model_config
from .state.latents_file import read_latents_note

if TYPE_CHECKING:
    from ..quantize.source import AnySource

MOVIE_SUFFIXES = frozenset({".mp4", ".mkv"})


def inspect_path(
    path: Path, *, dit_weight: Path | None = None, model_config_file: Path | None = None
) -> dict[str, Any]:
    """Plain values under `kind`: `video`, `latents` or `model`. Raises ConfigError or CheckpointError."""
    check_path_text(path, "the path")
    if not path.exists():
        raise ConfigError(f"{path}: no such file or folder", hint="give a video, latents or a model's folder")
    if (path / SETTINGS_NAME).is_file() or (path.is_file() and path.suffix.lower() in MOVIE_SUFFIXES):
        return _inspect_video(path)
    if path.suffix == ".safetensors" and dit_weight is None:
        try:
            note = read_latents_note(path)
        except CheckpointError:
            pass  # not latents: a model's file
        else:
            return {"kind": "latents", "path": str(path), "steps_done": note.step, "settings": note.settings}
    return inspect_model(path, dit_weight=dit_weight, model_config=read_model_config(model_config_file))


def inspect_model(
    path: Path, *, dit_weight: Path | None = None, model_config: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """The parts of a model: files, bytes, tensors, dtypes, keys and architecture, from the files' headers."""
    files = locate(path, dit_weight=dit_weight)
    parts = [_describe(*part) for part in _open_parts(files, model_config)]
    if not parts:
        raise CheckpointError(
            f"{path}: no part can be inspected ({files.layout} layout)", hint="give the model's folder or its file"
        )
    return {"kind": "model", "path": str(path), "name": load_card(path).name, "layout": files.layout, "parts": parts}


def readable(found: Mapping[str, Any], *, tensors: bool = False) -> str:
    """The same for people: the facts, then for a model its parts; with `tensors` also every tensor."""
    lines = [f"{name}: {_text(value)}" for name, value in found.items() if name not in ("parts", "settings")]
    settings = found.get("settings")
    lines += [f"  {name}: {_text(value)}" for name, value in (settings or {}).items()]
    if "settings" in found and settings is None:
        lines.append("settings: none inside; hvlite did not make it")
    for part in found.get("parts", ()):
        size = f"{part['bytes'] / 2**20:,.1f} MiB"
        lines += ["", f"{part['part']}: {part['tensors']} tensors, {size}, {_text(part['dtypes'])}"]
        lines += [f"  {name}: {_text(value)}" for name, value in part["config"].items() if not isinstance(value, dict)]
    for part in found.get("parts", ()) if tensors else ():
        lines += ["", f"{part['part']} keys ({part['names_layout']} names in the file):"]
        lines += [f"  {key['name']} {key['dtype']} {_text(key['shape'])}" for key in part["keys"]]
    return "\n".join(lines)


def _inspect_video(path: Path) -> dict[str, Any]:
    info = asdict(video_info(path))
    settings = info.pop("settings")
    return {"kind": "video", **info, "path": str(path), "settings": settings}


def _open_parts(
    files: ModelFiles, model_config: Mapping[str, Any] | None
) -> Iterator[tuple[str, AnySource, dict[str, Any]]]:
    from ..quantize.source import open_text_encoder, open_text_encoder_2, open_transformer, open_vae

    if files.transformer is not None:
        transformer = open_transformer(files, config=model_config)
        yield "transformer", transformer, asdict(transformer.config)
    if files.vae is not None:
        vae = open_vae(files)
        yield "vae", vae, asdict(vae.config)
    if files.text_encoder is not None:
        language_model = open_text_encoder(files)
        yield "text_encoder", language_model, dict(language_model.config)
    if files.text_encoder_2 is not None:
        clip = open_text_encoder_2(files)
        yield "text_encoder_2", clip, dict(clip.config)


def _describe(name: str, source: AnySource, config: dict[str, Any]) -> dict[str, Any]:
    with source:
        infos = [(key, source.info(key)) for key in source.names()]
        return {
            "part": name,
            "files": [str(path) for path in source.paths],
            "bytes": source.total_bytes,
            "tensors": len(infos),
            "dtypes": dict(Counter(info.dtype for _, info in infos)),
            "quantization": source.quantization.convention,
            "names_layout": source.names_layout,
            "config": config,
            "keys": [{"name": key, "dtype": info.dtype, "shape": list(info.shape)} for key, info in infos],
        }


def _text(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {count}" for name, count in value.items())
    if isinstance(value, list | tuple):
        sentences = any(isinstance(item, str) for item in value)  # what happened in a run; else the sides of a shape
        return ("; " if sentences else "x").join(map(str, value))
    return str(value)
