"""Where a file of a converted model turns out to be damaged, the hint names the command that finds it."""

from __future__ import annotations

from pathlib import Path

import pytest

from hvlite.errors import CheckpointError, HvliteError, NonFiniteError
from hvlite.lite.request.damage import point_to_verify


def hint_of(error: HvliteError, model: Path | None) -> str | None:
    with pytest.raises(type(error)), point_to_verify(model), point_to_verify(model):
        raise error
    return error.hint


def test_what_gets_the_hint(tmp_path: Path):
    model = tmp_path / "my model"
    model.mkdir()
    damaged = f"{model}/transformer/double_blocks.00.safetensors: the header is not UTF-8"
    assert hint_of(CheckpointError(damaged, hint="copy it"), model) == "copy it"  # not one that hvlite converted
    (model / "hvlite.json").touch()
    command = f"hvlite verify '{model}' names every damaged file"
    assert hint_of(CheckpointError(damaged, hint="copy it"), model) == f"copy it; {command}"
    assert hint_of(CheckpointError(damaged), model) == command
    assert hint_of(NonFiniteError("step 3: NaN in double_blocks.0"), model) == command
    assert hint_of(CheckpointError("a.mp4.hvlite/step.safetensors is damaged", hint="--force"), model) == "--force"
    assert hint_of(CheckpointError(damaged), None) is None
