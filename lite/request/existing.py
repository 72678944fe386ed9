"""What an earlier run left at the output: a finished video, an unfinished run, or something that is in the way."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...errors import ConfigError
from ..config import GenerateConfig, GenerateRequest
from ..output.video_read import Existing, describe_existing
from ..settings import OUTPUT_ONLY, settings_differences
from ..state.run_state import peek_run

_OTHER_OUTPUT = "--force replaces it, --output takes another name"


@dataclass(frozen=True)
class Before:
    """`done`: the very video asked for is there already. `step`: steps an unfinished run has done, None without one."""

    done: bool = False
    step: int | None = None


def look_before(request: GenerateRequest, fingerprint: Callable[[], str]) -> Before:
    """What is there already; raises ConfigError where going on would lose it or mix two runs.

    `fingerprint` gives the model's, and is asked only where there is something to compare it with.
    """
    existing = describe_existing(request.output)
    if existing.kind == "foreign" and not request.force:
        raise ConfigError(f"{request.output} exists and is not a video of hvlite", hint=_OTHER_OUTPUT)
    if existing.kind == "finished" and not request.force:
        return _finished(request, existing, fingerprint)
    if request.force or request.resume is False:
        return Before()
    return _unfinished(request, fingerprint)


def saved_seed(output: Path) -> int | None:
    """The seed of the run that left a video or a state folder at `output`."""
    existing = describe_existing(output)
    unfinished = None if existing.kind == "finished" else peek_run(output)
    settings = existing.settings if unfinished is None else unfinished.settings
    seed = (settings or {}).get("seed")
    return seed if isinstance(seed, int) and not isinstance(seed, bool) else None


def _finished(request: GenerateRequest, existing: Existing, fingerprint: Callable[[], str]) -> Before:
    if not request.resume:
        raise ConfigError(f"{request.output} exists already", hint=_OTHER_OUTPUT)
    differences = _differences(existing.settings or {}, request.config, fingerprint())
    if differences:
        raise ConfigError(
            f"{request.output} is a finished video with other settings: {'; '.join(differences)}", hint=_OTHER_OUTPUT
        )
    return Before(done=True)


def _unfinished(request: GenerateRequest, fingerprint: Callable[[], str]) -> Before:
    run = peek_run(request.output)
    if run is None:
        return Before()
    if request.resume is None:
        done = "all steps" if run.has_latents else f"{run.step} of {run.settings.get('steps')} steps"
        raise ConfigError(
            f"an unfinished run with {done} done lies in {request.state_folder}",
            hint="--resume goes on with it, --no-resume starts anew",
        )
    settings = {**run.settings, "model_fingerprint": run.model_fingerprint}
    differences = _differences(settings, request.config, fingerprint(), ignoring=OUTPUT_ONLY)
    if differences:
        raise ConfigError(
            f"cannot resume {request.output}, the settings differ: {'; '.join(differences)}",
            hint="give the same settings, or --no-resume to start anew",
        )
    return Before(step=run.step)


def _differences(
    before: Mapping[str, Any], config: GenerateConfig, fingerprint: str, *, ignoring: frozenset[str] = frozenset()
) -> list[str]:
    now = {**config.to_json(), "model_fingerprint": fingerprint}
    names = [name for name in now if name not in ignoring]
    kept = {name: before[name] for name in names if name in before}
    return settings_differences(kept, {name: now[name] for name in names})
