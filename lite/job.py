"""One video from request to file, with its work kept on disk as it goes: what `hvlite generate` and `decode` run.

The state folder `<output>.hvlite/` holds the latents after every step, and the final latents before the decode starts.
"""

from __future__ import annotations

import shlex
import time
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import ConfigError
from .arithmetic import describe_kernels
from .arrangement import Arrangement, DecodeArrangement, accepted
from .config import DecodeRequest, GenerateConfig, GenerateRequest
from .events import Finished, Listener, Note, Planned, stage
from .guidance import Conditioning
from .interrupt import StopFlag
from .output.preview import write_preview
from .pauses import Pause, cap_of, watched_chunks
from .pipeline import Pipeline, load
from .planning.view import plan_json, plan_line
from .recovery.recoveries import Recoveries
from .recovery.steps import OnNonfinite
from .sampling import initial_latents
from .settings import RECOVERIES
from .state.latents_file import read_latents
from .state.run_state import RunState
from .streaming.tiers import TierCounts
from .text import PromptEmbeds
from .video import write_video


@dataclass(frozen=True)
class RunResult:
    """A finished video: the file, the settings inside it, the seconds it took."""

    output: Path
    settings: dict[str, Any]
    seconds: float


def run_generate(
    request: GenerateRequest,
    on_event: Listener,
    stop: StopFlag,
    *,
    pipeline: Pipeline | None = None,
    conditioning: Conditioning | None = None,
) -> RunResult:
    """Make the video of `request`; a batch gives the `pipeline` of all its videos and the prompt as embedded before.

    With `request.resume` the run goes on from the last finished step, and ends with the bits of a run that was never
    stopped. Raises InterruptedRunError, its work kept, once `stop` is requested; and what the stages raise.
    """
    _set_threads(request.threads)
    began = time.monotonic()
    if pipeline is None:
        pipeline = open_pipeline(request, on_event)
        _note_precision(request, pipeline, on_event)
    plan = pipeline.plan(request.config)
    arrangement = accepted(plan, streamable=pipeline.parts.is_streamable)
    on_event(Planned(plan_line(plan), plan_json(plan)))
    settings = pipeline.settings(request.config)
    with RunState.open(request.output) as state:
        resumed = state.begin(settings, pipeline.fingerprint, resume=bool(request.resume))
        if request.resume and not resumed:
            on_event(Note("info", "no checkpoint to go on from: starting at step 0"))
        run = _Run(pipeline, request, arrangement, state, on_event, stop, conditioning)
        latents = state.load_latents() if resumed else None
        if latents is None:
            latents = run.denoise(start=state.load_step() if resumed else None)
        run.decode(latents, settings)
        state.finish(keep=request.keep_latents)
    seconds = time.monotonic() - began
    ran = summary(pipeline, arrangement, state.recoveries)
    on_event(Finished(request.output, request.config.seed, seconds, ran))
    return RunResult(request.output, state.recoveries.in_settings(settings), seconds)


def open_pipeline(request: GenerateRequest | DecodeRequest, on_event: Listener) -> Pipeline:
    """The model of a request on its device, under its limits. No weight is read."""
    return load(
        request.model,
        device=request.device,
        precision=request.precision,
        dit_weight=request.dit_weight,
        config=request.model_config,
        tier=request.tier if isinstance(request, GenerateRequest) else "auto",
        prompt_cache=isinstance(request, GenerateRequest) and request.prompt_cache,
        vram_limit_bytes=request.vram_limit_bytes,
        ram_limit_bytes=request.ram_limit_bytes,
        linear=request.linear if isinstance(request, GenerateRequest) else "auto",
        attention=request.attention if isinstance(request, GenerateRequest) else "auto",
        on_nonfinite=_on_nonfinite(request),
        on_event=on_event,
    )


def run_decode(request: DecodeRequest, on_event: Listener, stop: StopFlag) -> RunResult:
    """Make the video from final latents kept by `generate` (`--keep-latents`, or a run whose decode failed)."""
    _set_threads(request.threads)
    began = time.monotonic()
    latents, note = read_latents(request.latents)
    settings = note.settings
    pipeline = open_pipeline(request, on_event)
    if settings.get("model_fingerprint") not in (None, pipeline.fingerprint):
        raise ConfigError(
            f"{request.latents} was made by another model ({settings.get('model', 'unnamed')})",
            hint="name that model with --model: another VAE would decode noise",
        )
    if request.fps is not None:
        settings = {**settings, "fps": request.fps}
    go_on = f"hvlite decode {shlex.quote(str(request.latents))}"
    kept = f"{request.latents} is as it was"
    arrangement = pipeline.arrange_decode(latents, tiled=request.tiled)
    recoveries = Recoveries.of(settings)
    frames = pipeline.decode(latents, arrangement, one_colour=True, recoveries=recoveries)
    pause = Pause(cap_of(request, pipeline), stop, go_on)
    pause.cap.check("before the decode", kept)
    chunks = watched_chunks(frames, latents, on_event, partial(pause, kept=kept))
    write_video(
        request.output,
        chunks,
        fps=settings["fps"],
        settings=lambda: recoveries.in_settings(settings),
        encoding=request.encoding,
        force=request.force,
    )
    seconds = time.monotonic() - began
    ran = summary(pipeline, arrangement, recoveries)
    on_event(Finished(request.output, int(settings.get("seed", 0)), seconds, ran))
    return RunResult(request.output, recoveries.in_settings(settings), seconds)


def summary(pipeline: Pipeline, arrangement: Arrangement | DecodeArrangement, recoveries: Recoveries) -> dict[str, Any]:
    """What really ran: as `arrangement` says, and otherwise where `recoveries` say so."""
    parts = pipeline.parts
    names = {"transformer": parts.dtypes.transformer, "vae": parts.dtypes.vae, "text_encoders": parts.dtypes.text}
    linear = describe_kernels(parts.device.device, parts.arithmetic)
    return {
        "model": pipeline.card.name,
        "device": parts.device.name,
        "attention": f"{parts.attention} ({parts.attention.why})",
        "dtypes": {part: str(dtype).removeprefix("torch.") for part, dtype in names.items()},
        **({"linear": f"linear {linear}"} if parts.is_streamable else {}),
        "tier": str(parts.tiers or TierCounts()),
        "tile": {**asdict(arrangement.tile), "in_chunks_of_time": arrangement.lean_decode},
        **({"token_chunk": arrangement.token_chunk} if isinstance(arrangement, Arrangement) else {}),
        **({RECOVERIES: list(recoveries.lines)} if recoveries.lines else {}),
    }


@dataclass(frozen=True)
class _Run:
    """The stages of one request, reporting and saving as they go."""

    pipeline: Pipeline
    request: GenerateRequest
    arrangement: Arrangement
    state: RunState
    on_event: Listener
    stop: StopFlag
    conditioning: Conditioning | None = None

    @property
    def config(self) -> GenerateConfig:
        return self.request.config

    def denoise(self, start: tuple[int, Tensor] | None) -> Tensor:
        """The final latents, on disk when this returns. `start`: (steps done, latents) of an earlier run."""
        done, latents = start or (0, initial_latents(self.config))
        if done < self.config.steps:
            latents = self._steps(done, latents, self.conditioning or self._embed())
        self.state.save_latents(latents)
        return latents

    def decode(self, latents: Tensor, settings: dict[str, Any]) -> None:
        """The video of the latents, written as it is decoded."""
        recoveries = self.state.recoveries
        chunks = self.pipeline.decode(latents, self.arrangement, recoveries=recoveries)
        kept = f"the latents are kept in {self.state.latents_path}"
        self._pause.cap.check("before the decode", kept)
        write_video(
            self.request.output,
            watched_chunks(chunks, latents, self.on_event, partial(self._pause, kept=kept)),
            fps=self.config.fps,
            settings=lambda: recoveries.in_settings(settings),
            encoding=self.request.encoding,
            force=self.request.force,
        )

    def _embed(self) -> Conditioning:
        with stage("embed", None, self.on_event) as report:
            conditioning = self.pipeline.embed(self.config, self.arrangement, recoveries=self.state.recoveries)
            report.detail = _embedded(conditioning.positive)
        for embeds in (conditioning.positive, conditioning.negative):
            for cut in embeds.truncations if embeds else ():
                # CLIP reads 75 tokens of any long prompt, as in the official code: the language model has the rest.
                self.on_event(Note("warning" if cut.encoder == "text_encoder" else "info", str(cut)))
        return conditioning

    def _steps(self, start: int, noise: Tensor, conditioning: Conditioning) -> Tensor:
        steps, latents = self.config.steps, noise
        if start:
            self.on_event(Note("info", f"going on after step {start} of {steps}"))
        with stage("denoise", steps, self.on_event) as report:
            steps_done = self.pipeline.denoise(
                self.config, conditioning, noise, self.arrangement, start=start, recoveries=self.state.recoveries
            )
            for done, latents in steps_done:
                self.state.save_step(done, latents)
                self._preview(done, latents)
                report.step(done)
                if done < steps:
                    self._pause(f"after step {done} of {steps}", f"the work is kept in {self.state.folder}")
            report.detail = f"{steps - start} steps"
        return latents

    @property
    def _pause(self) -> Pause:
        go_on = f"the same command and --resume --output {shlex.quote(str(self.request.output))}"
        return Pause(cap_of(self.request, self.pipeline), self.stop, go_on)

    def _preview(self, done: int, latents: Tensor) -> None:
        every, latent_rgb = self.request.preview_every, self.pipeline.card.latent_rgb
        if every is None or latent_rgb is None or (done % every and done != self.config.steps):
            return
        write_preview(self.state.preview_path, latents, latent_rgb)


def _on_nonfinite(request: GenerateRequest | DecodeRequest) -> OnNonfinite:
    """The request's word for it, as a type; the request has checked it."""
    return "retry" if request.on_nonfinite == "retry" else "stop"


def _embedded(embeds: PromptEmbeds) -> str:
    return f"{int(embeds.prompt_mask.sum())} text tokens" + (", kept from an earlier run" if embeds.cached else "")


def _note_precision(request: GenerateRequest, pipeline: Pipeline, on_event: Listener) -> None:
    if request.precision not in (None, "fp32") and not pipeline.parts.device.is_cuda:
        on_event(Note("info", f"--precision {request.precision}: a CPU computes in fp32"))
    if request.preview_every is not None and pipeline.card.latent_rgb is None:
        on_event(Note("warning", f"no preview: {pipeline.card.name} has no latent_rgb in its card"))


def _set_threads(threads: int | None) -> None:
    if threads is not None:
        torch.set_num_threads(threads)
