"""What was done otherwise than planned is in the video, and changes nothing of what a run is taken for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from starvation import Starved, StarvedOperator

import hvlite
from hvlite.cli import main
from hvlite.lite.config import DecodeRequest, GenerateConfig, GenerateRequest
from hvlite.lite.events import Event, Finished, StageStarted, StepDone, ignore
from hvlite.lite.interrupt import StopFlag
from hvlite.lite.job import run_decode, run_generate
from hvlite.lite.output.encoding import SUFFIXES, VideoEncoding
from hvlite.lite.output.video_read import read_settings, read_video
from hvlite.lite.recovery.recoveries import Recoveries
from hvlite.lite.state.latents_file import read_latents

ATTENTION, CONVOLUTION = "aten._scaled_dot_product", "aten.convolution"  # of a step, of a tile, and of nothing else


class Crash(BaseException):
    """What nobody catches."""


class Shortage:
    """A run in which memory runs out once: in the first `operator` after `when`."""

    def __init__(self, when: Callable[[Event], bool], operator: str) -> None:
        self.starved = StarvedOperator(operator)
        self._when = when

    def __call__(self, event: Event) -> None:
        self.starved.due = self.starved.due or (not self.starved.failed and self._when(event))

    def run(self, work: Callable[..., object], asked: GenerateRequest | DecodeRequest) -> None:
        with self.starved:
            work(asked, self, StopFlag())
        assert self.starved.failed == 1


def after_step(stage: str, index: int) -> Callable[[Event], bool]:
    return lambda event: isinstance(event, StepDone) and event.stage == stage and event.index >= index


def at_decode(event: Event) -> bool:
    return isinstance(event, StageStarted) and event.stage == "decode"


@pytest.fixture
def asked(clean_model: Path, config: GenerateConfig, tmp_path: Path) -> GenerateRequest:
    return GenerateRequest(config=config, output=tmp_path / "a.mp4", model=clean_model, keep_latents=True, device="cpu")


def test_a_run_that_stepped_down_is_resumed_and_its_video_says_what_happened(
    asked: GenerateRequest, capsys: pytest.CaptureFixture[str]
) -> None:
    plain = replace(asked, output=asked.output.with_name("plain.mp4"))
    run_generate(plain, ignore, StopFlag())
    shortage = Shortage(after_step("denoise", 1), ATTENTION)

    def crash_after_step_2(event: Event) -> None:
        shortage(event)
        if after_step("denoise", 2)(event):
            raise Crash

    with shortage.starved, pytest.raises(Crash):
        run_generate(asked, crash_after_step_2, StopFlag())
    assert shortage.starved.failed == 1
    events: list[Event] = []
    run_generate(replace(asked, resume=True), events.append, StopFlag())
    settings = read_settings(asked.output)
    (line,) = settings.pop("recoveries")
    assert line.startswith("denoise step 2 of 3: resident blocks ")
    assert settings == read_settings(plain.output)
    summary = events[-1].summary if isinstance(events[-1], Finished) else {}
    assert summary["recoveries"] == [line]

    # The latents tell it as well, so a later decode does; and what it did itself comes after that.
    latents = Path(f"{asked.output}.hvlite/latents.safetensors")
    assert read_latents(latents)[1].settings == {**settings, "recoveries": [line]}
    again = DecodeRequest(latents=latents, output=asked.output.with_name("b.mkv"), model=asked.model, device="cpu")
    again = replace(again, encoding=VideoEncoding("lossless"))
    Shortage(at_decode, CONVOLUTION).run(run_decode, again)
    assert read_settings(again.output)["recoveries"][0] == line
    assert read_settings(again.output)["recoveries"][1].endswith(": tile whole -> in chunks of time")
    assert main(["inspect", str(again.output)]) == 0
    assert f"recoveries: {line}; decode tile 1 of 1 (" in capsys.readouterr().out


def test_a_video_that_stepped_down_is_the_one_that_was_asked_for(asked: GenerateRequest) -> None:
    """By `--resume`, which then has nothing to do, and by its fingerprint."""
    from hvlite.lite.fingerprint import model_fingerprint
    from hvlite.lite.request.existing import look_before
    from hvlite.lite.settings import fingerprint
    from hvlite.quantize.readers.locate import locate

    Shortage(after_step("denoise", 1), ATTENTION).run(run_generate, asked)
    settings = read_settings(asked.output)
    assert len(settings["recoveries"]) == 1
    assert asked.model is not None
    model = model_fingerprint(locate(asked.model), None)
    assert look_before(replace(asked, resume=True), lambda: model).done
    asked_for = {name: value for name, value in settings.items() if name != "recoveries"}
    assert fingerprint(settings, model) == fingerprint(asked_for, model)


@pytest.mark.parametrize("kind", SUFFIXES)
@pytest.mark.parametrize("late", [False, True], ids=["before the first frame", "after the first frames"])
def test_a_tile_that_stepped_down_is_told_in_every_kind_of_file(asked: GenerateRequest, kind: str, late: bool) -> None:
    config = replace(asked.config, frames=65, height=16, width=16, steps=1)
    output = asked.output.with_name("a" + SUFFIXES[kind])
    asked = replace(asked, config=config, output=output, encoding=VideoEncoding(kind))
    shortage = Shortage(after_step("decode", 1) if late else at_decode, CONVOLUTION)
    shortage.run(run_generate, asked)
    (line,) = read_settings(output)["recoveries"]
    tile = 2 if late else 1
    assert line.startswith(f"decode tile {tile} of ")
    assert line.endswith(": tile whole -> in chunks of time")
    assert read_video(output)[0].shape == (65, 16, 16, 3)
    assert list(output.parent.glob("**/.*.part")) == []


def test_the_library_tells_it_as_well(clean_model: Path, config: GenerateConfig) -> None:
    pipeline = hvlite.load(clean_model, device="cpu", prompt_cache=False)
    with Starved() as whole:
        plain = pipeline.generate(config)
    with Starved(frozenset({whole.allocations // 2})) as starved:
        video = pipeline.generate(config)
    assert starved.failed == 1
    assert len(video.settings["recoveries"]) == 1
    assert "recoveries" not in plain.settings
    assert torch.equal(video.frames, plain.frames)


@pytest.mark.parametrize("lines", [None, 3, "a", {"a": 1}, [1, None]])
def test_what_a_file_says_there_is_not_trusted(lines: object) -> None:
    assert Recoveries.of({"recoveries": lines}).lines == []
    assert Recoveries.of({"recoveries": lines}).in_settings({"recoveries": lines, "seed": 1}) == {"seed": 1}
