"""Everything that can be known about a request before torch is imported and a weight is read, cheapest first."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from ...errors import CheckpointError, ConfigError
from ...files import read_json
from ..card import ModelCard, load_card
from ..config import GenerateConfig, GenerateRequest
from ..fingerprint import model_fingerprint
from ..output.encoding import VideoEncoding
from ..planning.limits import parse_limit
from .existing import Before, look_before, saved_seed
from .model_choice import ModelChoice, choose_model
from .naming import chosen_name, free_name, numbered
from .options import GenerateOptions
from .output_checks import check_disk, check_output, check_path_text, needed_bytes
from .prompt import read_prompt_file, require_prompt
from .sizes import size_by_name

DEFAULT_PREVIEW_EVERY = 5
MODEL_CONFIG_LIMIT_BYTES = 1 << 20


@dataclass(frozen=True)
class Prepared:
    """A request that passed: one video to make, or one that is there already (`before.done`)."""

    request: GenerateRequest
    card: ModelCard
    before: Before
    needed_bytes: int


def prepare(options: GenerateOptions, *, makes_folder: bool = False) -> tuple[list[Prepared], list[str]]:
    """The videos to make and what the user should know; raises ConfigError, CheckpointError or DiskError.

    `makes_folder`: the folder of the output need not be there yet, as with --save-path.
    """
    prompt = _prompt(options)
    check_consistency(options)
    choice = choose_model(
        options.model, options.dit_weight, use_fp8=options.use_fp8, resolution=options.model_resolution
    )
    card = load_card(choice.root)
    seed, notes = _seed(options)
    config = _config(options, card, prompt, seed)
    encoding = choose_encoding(options.output, options.crf, lossless=options.lossless, png=options.png)
    first = _request(options, choice, config, encoding)
    fingerprint = partial(model_fingerprint, choice.files, first.model_config)
    makes_folder = makes_folder or options.output is None
    prepared = [prepare_one(each, card, fingerprint, makes_folder=makes_folder) for each in _each(options, first)]
    check_disk(prepared[0].request.output.parent, sum(each.needed_bytes for each in prepared))
    return prepared, notes + config_notes(config, card)


def prepare_one(
    request: GenerateRequest, card: ModelCard, fingerprint: Callable[[], str], *, makes_folder: bool = False
) -> Prepared:
    """Check the output of one request and what lies there; raises ConfigError or DiskError."""
    check_output(request.output, request.config, request.encoding, makes_folder=makes_folder)
    before = look_before(request, fingerprint)
    return Prepared(request, card, before, 0 if before.done else needed_bytes(request.config, request.encoding))


def check_consistency(options: GenerateOptions) -> None:
    """Raise ConfigError for options that exclude each other or make no sense in number."""
    named = options.resolution or options.aspect
    if options.video_size and named:
        raise ConfigError("--video-size and --resolution/--aspect exclude each other", hint="give the size once")
    if options.output and options.save_path:
        raise ConfigError(
            "--output and --save-path exclude each other", hint="--output is the file, --save-path a folder"
        )
    if options.name_suffix and options.output:
        raise ConfigError("--output is the whole name: --name-suffix does not go with it", hint="use --save-path")
    if options.save_path_suffix and not options.save_path:
        raise ConfigError("--save-path-suffix needs --save-path", hint="--save-path DIR names the folder")
    if not 1 <= options.num_videos <= 1000:
        raise ConfigError(
            f"--num-videos {options.num_videos}: must be from 1 to 1000", hint="for example --num-videos 4"
        )
    if options.resume and not options.output:
        raise ConfigError("--resume needs --output", hint="name the file of the run that was stopped")


def choose_encoding(output: Path | None, crf: int | None, *, lossless: bool, png: bool) -> VideoEncoding:
    """The encoding asked for, or the one the output's name stands for."""
    if lossless and png:
        raise ConfigError("--lossless and --png exclude each other", hint="PNG frames are lossless already")
    if output is not None and output.suffix.lower() == ".mkv":
        lossless = True
    if crf is not None and (lossless or png):
        raise ConfigError("--crf is for H.264; --lossless and --png keep every bit", hint="leave --crf out")
    quality = 17 if crf is None else crf
    return VideoEncoding(kind="png" if png else "lossless" if lossless else "h264", crf=quality)


def read_model_config(path: Path | None) -> Mapping[str, Any] | None:
    """The object in a --model-config file; raises ConfigError where it is not readable JSON."""
    if path is None:
        return None
    check_path_text(path, "--model-config")
    if not path.is_file():
        raise ConfigError(f"--model-config {path}: no such file", hint="give a JSON file with official field names")
    try:
        data = read_json(path, limit_bytes=MODEL_CONFIG_LIMIT_BYTES)
    except CheckpointError as error:
        raise ConfigError(f"--model-config {error.message}", hint='for example {"heads_num": 24}') from None
    if not isinstance(data, dict):
        raise ConfigError(f"--model-config {path}: must hold one JSON object", hint='for example {"heads_num": 24}')
    return data


def config_notes(config: GenerateConfig, card: ModelCard) -> list[str]:
    """What is allowed but worth a line."""
    notes = []
    if (config.height, config.width) not in card.sizes:
        notes.append(f"{card.name} was not made for {config.height}x{config.width}: expect less than its best")
    if config.negative_prompt and config.effective_negative_prompt is None:
        notes.append("the negative prompt has no effect while --cfg-scale is 1")
    if not config.flow_reverse:
        notes.append("--no-flow-reverse: the released weights need the reversed flow; expect noise")
    return notes


def _prompt(options: GenerateOptions) -> str:
    given = [text for text in (options.prompt_words, options.prompt, options.prompt_file) if text is not None]
    if len(given) > 1:
        raise ConfigError(
            "the prompt is given twice", hint="as words, with --prompt or with --prompt-file: one of them"
        )
    if not given:
        raise ConfigError("no prompt", hint='say what to show: hvlite generate "a red circle moves to the right"')
    return require_prompt(read_prompt_file(given[0]) if isinstance(given[0], Path) else given[0])


def _seed(options: GenerateOptions) -> tuple[int | None, list[str]]:
    if options.seed is not None or not options.resume or options.output is None:
        return options.seed, []
    seed = saved_seed(numbered(options.output, 0, options.num_videos))
    return seed, [] if seed is None else [f"seed {seed}: that of the run that is resumed"]


def _config(options: GenerateOptions, card: ModelCard, prompt: str, seed: int | None) -> GenerateConfig:
    height, width = options.video_size or size_by_name(card, options.resolution, options.aspect)
    return GenerateConfig.from_card(
        card,
        prompt=prompt,
        height=height,
        width=width,
        frames=options.frames,
        fps=options.fps,
        steps=options.steps,
        guidance_scale=options.guidance,
        cfg_scale=options.cfg_scale,
        flow_shift=options.flow_shift,
        flow_reverse=options.flow_reverse,
        negative_prompt=options.neg_prompt,
        vae_tiling=options.vae_tiling,
        seed=seed,
    )


def _request(
    options: GenerateOptions, choice: ModelChoice, config: GenerateConfig, encoding: VideoEncoding
) -> GenerateRequest:
    every = options.preview_every
    return GenerateRequest(
        config=config,
        output=options.output or _folder(options),
        model=choice.given,
        dit_weight=choice.dit_weight,
        model_config=read_model_config(options.model_config),
        model_config_file=options.model_config,
        encoding=encoding,
        resume=options.resume,
        force=options.force,
        keep_latents=options.keep_latents,
        preview_every=DEFAULT_PREVIEW_EVERY if options.preview and every is None else every,
        precision=options.precision,
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


def _folder(options: GenerateOptions) -> Path:
    folder = options.save_path or Path()
    check_path_text(folder, "--save-path")
    return Path(f"{folder}_{options.save_path_suffix}") if options.save_path_suffix else folder


def _each(options: GenerateOptions, first: GenerateRequest) -> Iterator[GenerateRequest]:
    """The requests of --num-videos: seeds that count up, each with a name of its own."""
    for index in range(options.num_videos):
        config = replace(first.config, seed=first.config.seed + index)
        if options.output is not None:
            output = numbered(options.output, index, options.num_videos)
        else:
            name = chosen_name(config.prompt, config.seed, first.encoding.suffix, options.name_suffix)
            output = free_name(first.output / name)
        yield replace(first, config=config, output=output)
