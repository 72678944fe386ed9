"""The checks before a video is made again from its own settings (`rerun`) or from latents on disk (`decode`)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from ...errors import ConfigError
from ..card import load_card
from ..config import DecodeRequest, GenerateConfig, GenerateRequest
from ..fingerprint import model_fingerprint
from ..output.encoding import VideoEncoding
from ..output.video_read import describe_existing, read_settings
from ..planning.limits import parse_limit
from ..state.latents_file import LatentsNote, read_latents_note
from ..state.run_state import LATENTS_NAME
from .model_choice import choose_model
from .naming import STATE_SUFFIX
from .options import DecodeOptions, RerunOptions
from .output_checks import check_disk, check_output, check_path_text, needed_bytes
from .preflight import Prepared, choose_encoding, prepare_one, read_model_config

TORCH_PRECISIONS = {"float32": "fp32", "bfloat16": "bf16", "float16": "fp16"}


def prepare_rerun(options: RerunOptions) -> Prepared:
    """The run that made `options.video`, to be made again; raises ConfigError where model or settings do not fit."""
    _check_there(options.video, "no such video")
    settings = read_settings(options.video)
    config = config_of(settings, options.video)
    choice = choose_model(options.model, options.dit_weight, use_fp8=options.use_fp8)
    encoding = choose_encoding(options.output or options.video, options.crf, lossless=options.lossless, png=options.png)
    request = GenerateRequest(
        config=config,
        output=options.output or options.video.with_name(f"{options.video.stem}-rerun{encoding.suffix}"),
        model=choice.given,
        dit_weight=choice.dit_weight,
        model_config=read_model_config(options.model_config),
        model_config_file=options.model_config,
        encoding=encoding,
        resume=options.resume,
        force=options.force,
        keep_latents=options.keep_latents,
        precision=options.precision or TORCH_PRECISIONS.get(str(settings.get("precision"))),
        device=options.device,
        wait=options.wait,
        threads=options.threads,
        tier=options.tier,
        linear=options.linear,
        attention=options.attention,
        on_nonfinite=options.on_nonfinite,
        prompt_cache=options.prompt_cache,
        vram_limit_bytes=parse_limit("--vram-limit", options.vram_limit),
        ram_limit_bytes=parse_limit("--ram-limit", options.ram_limit),
    )
    fingerprint = model_fingerprint(choice.files, request.model_config)
    _check_same_model(settings, fingerprint, options.video)
    prepared = prepare_one(request, load_card(choice.root), lambda: fingerprint)
    check_disk(request.output.parent, prepared.needed_bytes)
    return prepared


def prepare_decode(options: DecodeOptions) -> DecodeRequest:
    """The decode of latents that `generate` left; raises ConfigError, CheckpointError or DiskError."""
    latents = _latents_file(options.latents)
    note = _note_of(latents)
    if note.step is not None:
        raise ConfigError(
            f"{latents}: these are the latents after step {note.step}, not the final ones",
            hint="the command that made them goes on with --resume",
        )
    config = config_of(note.settings if options.fps is None else {**note.settings, "fps": options.fps}, latents)
    choice = choose_model(options.model, options.dit_weight, use_fp8=options.use_fp8)
    encoding = choose_encoding(options.output, options.crf, lossless=options.lossless, png=options.png)
    request = DecodeRequest(
        latents=latents,
        output=options.output or _beside_latents(latents, encoding),
        model=choice.given,
        dit_weight=choice.dit_weight,
        model_config=read_model_config(options.model_config),
        model_config_file=options.model_config,
        encoding=encoding,
        force=options.force,
        fps=options.fps,
        tiled=options.vae_tiling,
        device=options.device,
        wait=options.wait,
        precision=options.precision,
        threads=options.threads,
        on_nonfinite=options.on_nonfinite,
        vram_limit_bytes=parse_limit("--vram-limit", options.vram_limit),
        ram_limit_bytes=parse_limit("--ram-limit", options.ram_limit),
    )
    _check_same_model(note.settings, model_fingerprint(choice.files, request.model_config), latents)
    check_output(request.output, config, encoding)
    existing = describe_existing(request.output)
    if existing.kind in ("finished", "foreign") and not options.force:
        raise ConfigError(f"{request.output} exists already", hint="--force replaces it, --output takes another name")
    check_disk(request.output.parent, needed_bytes(config, encoding))
    return request


def config_of(settings: Mapping[str, Any], path: Path) -> GenerateConfig:
    """The config among the settings inside a file; raises ConfigError naming the file."""
    names = {field.name for field in fields(GenerateConfig)}
    try:
        return GenerateConfig.from_json({name: value for name, value in settings.items() if name in names})
    except ConfigError as error:
        raise ConfigError(f"{path}: the settings inside cannot be run: {error.message}", hint=error.hint) from None


def _check_same_model(settings: Mapping[str, Any], fingerprint: str, path: Path) -> None:
    made_by = settings.get("model_fingerprint")
    if made_by != fingerprint:
        raise ConfigError(
            f"{path} was made by another model: {settings.get('model', 'unnamed')}, fingerprint {made_by}",
            hint="--model names it, with --dit-weight and --model-config as they were then",
        )


def _beside_latents(latents: Path, encoding: VideoEncoding) -> Path:
    """`cat.mp4` for `cat.mp4.hvlite/latents.safetensors`, else the latents' own name with the video's suffix."""
    folder = latents.absolute().parent
    if folder.suffix == STATE_SUFFIX:
        return folder.with_name(folder.stem).with_suffix(encoding.suffix)
    return latents.with_suffix(encoding.suffix)


def _latents_file(path: Path) -> Path:
    """The latents file itself, or the one in the folder that a run kept."""
    _check_there(path, "no such latents file")
    if not path.is_dir():
        return path
    if not (path / LATENTS_NAME).is_file():
        raise ConfigError(f"{path} holds no {LATENTS_NAME}", hint="give the <output>.hvlite/ of a run")
    return path / LATENTS_NAME


def _note_of(path: Path) -> LatentsNote:
    """What made the latents. ConfigError for another kind of file; one cut short or damaged is a CheckpointError."""
    if path.suffix != Path(LATENTS_NAME).suffix:
        raise ConfigError(f"{path} is not a file of latents", hint=f"give the {LATENTS_NAME} of a run, or its folder")
    return read_latents_note(path)


def _check_there(path: Path, problem: str) -> None:
    check_path_text(path, "the path")
    try:
        there = path.exists()
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}", hint="check the path") from None
    if not there:
        raise ConfigError(f"{path}: {problem}", hint="check the path")
