"""The same weights, text and noise through diffusers and hvlite, each in a process of its own."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from hvlite.benchmarks.peers import MAKERS, _gate, _video, prepare_video
from hvlite.benchmarks.results import GateError

pytest.importorskip("diffusers", reason="the test extra has it")


@pytest.mark.slow
def test_both_make_the_same_video(tmp_path: Path):
    folder = tmp_path / "peers"
    prepare_video(folder)
    for maker in MAKERS:
        found = _video(maker, folder)
        assert len(found["steps_s"]) == 20
        assert found["peak_rss_bytes"] > 1 << 27
    assert "equal" in _gate(folder)
    ours, theirs = (np.load(folder / f"{maker}.npz")["frames"].astype(int) for maker in MAKERS)
    assert np.abs(ours - theirs).max() <= 2
    latents = np.load(folder / "hvlite.npz")["latents"]
    np.savez(folder / "hvlite.npz", latents=latents * 1.01)
    with pytest.raises(GateError):
        _gate(folder)
