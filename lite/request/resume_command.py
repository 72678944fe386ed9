"""The command that goes on with a run that was stopped, to be shown to the person who has to give it."""

from __future__ import annotations

from ..card import ModelCard
from ..config import DecodeRequest, GenerateRequest
from ..output.encoding import VideoEncoding
from ..planning.limits import UNITS


def resume_command(request: GenerateRequest, card: ModelCard) -> list[str]:
    """The words of a command line with the settings of `request`; those that the model's card gives are left out."""
    return ["hvlite", "generate", *_settings(request, card), *_places(request), "--resume"]


def decode_command(request: DecodeRequest) -> list[str]:
    """The words of the command line that asks for `request`: a decode starts anew, from latents that stay."""
    words = ["hvlite", "decode", f"{request.latents}", *_running(request)]
    words += [] if request.fps is None else [f"--fps={request.fps}"]
    words += [] if request.tiled else ["--no-vae-tiling"]
    return words + (["--force"] if request.force else [])


def _settings(request: GenerateRequest, card: ModelCard) -> list[str]:
    config = request.config
    words = [f"--prompt={config.prompt}"]
    if (config.height, config.width) != (card.height, card.width):
        words += ["--video-size", str(config.height), str(config.width)]
    for option, value, default in (
        ("--frames", config.frames, card.frames),
        ("--steps", config.steps, card.steps),
        ("--guidance", config.guidance_scale, card.guidance_scale),
        ("--flow-shift", config.flow_shift, card.flow_shift),
        ("--cfg-scale", config.cfg_scale, 1.0),
        ("--fps", config.fps, card.fps),
        ("--seed", config.seed, None),
    ):
        words += [] if value == default else [option, str(value)]
    words += [] if config.negative_prompt is None else [f"--neg-prompt={config.negative_prompt}"]
    words += [] if config.flow_reverse else ["--no-flow-reverse"]
    return words + ([] if config.vae_tiling else ["--no-vae-tiling"])


def _places(request: GenerateRequest) -> list[str]:
    words = _running(request)
    words += [] if request.preview_every is None else [f"--preview-every={request.preview_every}"]
    words += ["--keep-latents"] if request.keep_latents else []
    words += [] if request.prompt_cache else ["--no-prompt-cache"]
    words += [] if request.tier == "auto" else [f"--tier={request.tier}"]
    words += [] if request.linear == "auto" else [f"--linear={request.linear}"]
    return words + ([] if request.attention == "auto" else [f"--attention={request.attention}"])


def _running(request: GenerateRequest | DecodeRequest) -> list[str]:
    """What both kinds of requests have in common."""
    words = [f"--output={request.output}"]
    for option, value in (
        ("--model", request.model),
        ("--dit-weight", request.dit_weight),
        ("--model-config", request.model_config_file),
        ("--precision", request.precision),
        ("--threads", request.threads),
        ("--vram-limit", _amount(request.vram_limit_bytes)),
        ("--ram-limit", _amount(request.ram_limit_bytes)),
    ):
        words += [] if value is None else [f"{option}={value}"]
    words += _encoding(request.encoding)
    words += [] if request.on_nonfinite == "stop" else [f"--on-nonfinite={request.on_nonfinite}"]
    return words + ([] if request.device == "auto" else [f"--device={request.device}"])


def _encoding(encoding: VideoEncoding) -> list[str]:
    words = ["--png"] if encoding.kind == "png" else []
    return words + ([] if encoding.kind != "h264" or encoding.crf == 17 else ["--crf", str(encoding.crf)])


def _amount(nbytes: int | None) -> str | None:
    """Without loss: in GiB where it is a whole number of them."""
    if nbytes is None:
        return None
    whole, rest = divmod(nbytes, UNITS["gib"])
    return f"{nbytes}B" if rest else f"{whole}GiB"
