"""From checked requests to finished videos, one after the other. Torch is imported here, once there is work for it."""

from __future__ import annotations

import contextlib
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import DiskError, InterruptedRunError, MemoryLimitError
from ..files import SAME_COMMAND, write_error
from .config import DecodeRequest, GenerateRequest
from .events import Listener, Note, ignore
from .interrupt import StopFlag
from .recovery.host_cap import LESS, HostCapError
from .request.damage import point_to_verify
from .request.preflight import Prepared
from .request.resume_command import decode_command, resume_command
from .state.gpu_lock import hold_gpu

if TYPE_CHECKING:
    from .card import ModelCard
    from .planning.types import MemoryPlan


def make_videos(prepared: Sequence[Prepared], on_event: Listener, stop: StopFlag) -> list[Path]:
    """Make each video that is not there already; returns the files. Raises what the stages raise.

    Where a run is stopped the InterruptedRunError says where its work is and the command that goes on.
    """
    work = [each.request for each in prepared if not each.before.done]
    with contextlib.ExitStack() as held:
        if work:
            command = f"generate {work[0].output.name}"
            held.enter_context(device_to_oneself(work[0].device, command, on_event, stop, wait=work[0].wait))
        for number, each in enumerate(prepared, 1):
            if len(prepared) > 1:
                on_event(Note("info", f"video {number} of {len(prepared)}: {each.request.output}"))
            _make_one(each, on_event, stop)
    return [each.request.output for each in prepared]


@contextlib.contextmanager
def device_to_oneself(device: str, command: str, on_event: Listener, stop: StopFlag, *, wait: bool) -> Iterator[None]:
    """No other hvlite works on the graphics card that `device` means; on a CPU nothing is locked. See `hold_gpu`."""
    from .device import probe_device

    info = probe_device(device)
    if not info.is_cuda:
        yield
        return
    with hold_gpu(info.uuid, info.name, f"hvlite {command}", wait=wait, stop=stop, on_event=on_event):
        yield


def make_folder(folder: Path) -> None:
    """The folder that --save-path names; raises DiskError."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise write_error(folder, error) from error


def decode_latents(request: DecodeRequest, on_event: Listener, stop: StopFlag) -> None:
    """Make the video of latents on disk; raises what the decode raises."""
    from .job import run_decode

    command = f"decode {request.latents.name}"
    with device_to_oneself(request.device, command, on_event, stop, wait=request.wait), point_to_verify(request.model):
        try:
            run_decode(request, on_event, stop)
        except InterruptedRunError as error:
            raise InterruptedRunError(error.message, hint=_go_on(decode_command(request))) from error
        except HostCapError as error:
            roomier = decode_command(replace(request, ram_limit_bytes=error.enough_bytes))
            raise MemoryLimitError(error.message, hint=_go_on(roomier)) from error


def plan_video(request: GenerateRequest) -> MemoryPlan:
    """How a video would be laid out in memory, whether it fits or not; no weight is read."""
    from .job import open_pipeline

    with point_to_verify(request.model):
        return open_pipeline(request, ignore).plan(request.config)


def _make_one(prepared: Prepared, on_event: Listener, stop: StopFlag) -> None:
    request, config = prepared.request, prepared.request.config
    if prepared.before.done:
        on_event(Note("info", f"{request.output} is finished already, with these settings: nothing to do"))
        return
    size = f"{config.height}x{config.width}, {config.frames} frames, {config.steps} steps"
    on_event(Note("info", f"{prepared.card.name}: {size}, seed {config.seed}"))
    make_folder(request.output.parent)
    from .job import run_generate

    with _saying_how_to_go_on(request, prepared.card), point_to_verify(request.model):
        run_generate(request, on_event, stop)


@contextlib.contextmanager
def _saying_how_to_go_on(request: GenerateRequest, card: ModelCard) -> Iterator[None]:
    """Where work is left behind, the error ends with the whole command that goes on with it."""
    go_on = _go_on(resume_command(request, card))
    try:
        yield
    except InterruptedRunError as error:
        raise InterruptedRunError(error.message, hint=go_on) from error
    except DiskError as error:
        raise DiskError(error.message, hint=error.hint and error.hint.replace(SAME_COMMAND, go_on)) from error
    except HostCapError as error:
        roomier = resume_command(replace(request, ram_limit_bytes=error.enough_bytes), card)
        raise MemoryLimitError(error.message, hint=f"{_go_on(roomier)}{LESS}") from error
    except KeyboardInterrupt:
        message = f"left at once; the finished steps, if any, are in {request.state_folder}"
        raise InterruptedRunError(message, hint=go_on) from None


def _go_on(command: Sequence[str]) -> str:
    return f"go on with: {shlex.join(command)}"
