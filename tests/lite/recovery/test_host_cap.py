"""The cap on host memory: a run over it stops between two steps with its work kept, and goes on from there."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import psutil
import pytest
import torch

from hvlite.errors import MemoryLimitError
from hvlite.lite.config import GenerateConfig, GenerateRequest
from hvlite.lite.events import ignore
from hvlite.lite.interrupt import StopFlag
from hvlite.lite.job import run_generate
from hvlite.lite.recovery import host_cap
from hvlite.lite.recovery.host_cap import check_host_cap, resident_bytes
from hvlite.lite.state.latents_file import read_latents

GIB = 1 << 30


def test_what_is_compared_is_the_memory_of_this_process() -> None:
    before = resident_bytes()
    assert before == pytest.approx(psutil.Process().memory_info().rss, rel=0.2)
    block = torch.ones(64 << 20, dtype=torch.uint8)
    assert resident_bytes() - before > 48 << 20
    assert block[0] == 1
    check_host_cap(resident_bytes() + GIB, "here", "nothing")
    with pytest.raises(MemoryLimitError, match=r"after step 1 this process holds .* the limit is 0\.00 GiB; kept"):
        check_host_cap(1, "after step 1", "kept")


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
