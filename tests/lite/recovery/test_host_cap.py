"""The cap on host memory: a run over it stops between two steps with its work kept, and goes on from there."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from dataclasses import replace
from itertools import count
from pathlib import Path

import psutil
import pytest
import torch

import hvlite
from hvlite.cli import main
from hvlite.errors import MemoryLimitError
from hvlite.lite.config import GenerateConfig, GenerateRequest
from hvlite.lite.events import ignore
from hvlite.lite.interrupt import StopFlag
from hvlite.lite.job import run_generate
from hvlite.lite.output.video_read import read_video
from hvlite.lite.recovery import host_cap
from hvlite.lite.recovery.host_cap import HostCap, resident_bytes
from hvlite.lite.state.latents_file import LatentsNote, read_latents, write_latents

GIB = 1 << 30


def test_what_is_compared_is_the_memory_of_this_process() -> None:
    before = resident_bytes()
    assert before == pytest.approx(psutil.Process().memory_info().rss, rel=0.2)
    block = torch.ones(64 << 20, dtype=torch.uint8)
    assert resident_bytes() - before > 48 << 20
    assert block[0] == 1
    HostCap(resident_bytes() + GIB, given=False).check("here", "nothing")
    for given, whose in ((True, "given by --ram-limit"), (False, "the default of --ram-limit")):
        said = rf"after step 1 this process holds .* the limit is 0\.00 GiB, {whose}; kept"
        with pytest.raises(MemoryLimitError, match=said):
            HostCap(1, given=given).check("after step 1", "kept")


@pytest.mark.parametrize("fails_at", [1, 3])  # after the first step; before the decode, when all three are done
def test_a_run_over_the_cap_keeps_its_work(
    clean_model: Path, config: GenerateConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails_at: int
) -> None:
    request = GenerateRequest(config=config, output=tmp_path / "a.mp4", model=clean_model, keep_latents=True)
    run_generate(replace(request, output=tmp_path / "whole.mp4"), ignore, StopFlag())
    looks = 0

    def grows() -> int:
        nonlocal looks
        looks += 1
        return GIB if looks < fails_at else 99 * GIB

    monkeypatch.setattr(host_cap, "resident_bytes", grows)
    with pytest.raises(MemoryLimitError, match=r"holds 99\.00 GiB of memory, the limit is 16\.00 GiB"):
        run_generate(request, ignore, StopFlag())
    monkeypatch.undo()
    run_generate(replace(request, resume=True), ignore, StopFlag())
    one, other = (read_latents(tmp_path / f"{name}.mp4.hvlite" / "latents.safetensors")[0] for name in ("whole", "a"))
    assert torch.equal(one, other)


@pytest.fixture
def grows(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """grows(look): from that look on, counted from 1, the process seems to hold 20.5 GiB."""

    def start(look: int) -> None:
        looks = count(1)
        held = int(20.5 * GIB)
        monkeypatch.setattr(host_cap, "resident_bytes", lambda: GIB if next(looks) < look else held)

    return start


def command_of(text: str) -> list[str]:
    """The command that a hint gives, as words for `main`."""
    return shlex.split(text.partition("hvlite ")[2].partition(";")[0])


@pytest.mark.parametrize(
    ("given", "whose"), [([], "16.00 GiB, the default of --ram-limit"), (["--ram-limit", "8GiB"], "8.00 GiB, given by")]
)
def test_the_error_of_a_command_ends_with_the_one_that_goes_on(
    clean_model: Path,
    tmp_path: Path,
    grows: Callable[[int], None],
    capsys: pytest.CaptureFixture[str],
    given: list[str],
    whose: str,
) -> None:
    output = tmp_path / "a b.mp4"
    size = ["--video-size", "32", "48", "--frames", "5", "--steps", "3", "--seed", "1", "--device", "cpu"]
    grows(2)
    words = ["generate", "a fox's walk", *size, *given, "--model", str(clean_model), "--output", str(output)]
    assert main(words) == 6
    said = capsys.readouterr().err
    assert f"after step 2 of 3 this process holds 20.50 GiB of memory, the limit is {whose}" in said
    assert f"the work is kept in {output}.hvlite" in said
    hint = next(line for line in said.splitlines() if line.startswith("hint: go on with: "))
    assert "--ram-limit=22GiB" in hint
    grows(99)
    assert main(command_of(hint)) == 0
    assert "going on after step 2 of 3" in capsys.readouterr().err
    assert output.exists()


@pytest.mark.parametrize(("look", "where"), [(1, "before the decode"), (2, r"after frame \d+ of 129")])
def test_a_decode_keeps_to_the_cap_as_well(
    clean_model: Path,
    config: GenerateConfig,
    tmp_path: Path,
    grows: Callable[[int], None],
    capsys: pytest.CaptureFixture[str],
    look: int,
    where: str,
) -> None:
    pipeline = hvlite.load(clean_model, device="cpu")
    long = replace(config, frames=129, height=16, width=16)
    path, output = tmp_path / "latents.safetensors", tmp_path / "a.mp4"
    settings = {**pipeline.settings(long), "model_fingerprint": pipeline.fingerprint}
    write_latents(path, torch.randn(long.latent_shape), LatentsNote(settings, ""))
    words = ["decode", str(path), "--model", str(clean_model), "--output", str(output), "--fps", "12"]
    grows(look)
    assert main(words) == 6
    said = capsys.readouterr().err
    assert re.search(rf"{where} this process holds 20\.50 GiB", said)
    assert f"{path} is as it was" in said
    assert not output.exists()
    hint = next(line for line in said.splitlines() if line.startswith("hint: go on with: hvlite decode"))
    grows(99)
    assert main(command_of(hint)) == 0
    assert read_video(output)[1] == 12
