from __future__ import annotations

import fcntl
import json
import os
import random
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from torch import Tensor

from hvlite.errors import CheckpointError, ConfigError, DiskError
from hvlite.lite.settings import fingerprint, settings_differences, settings_from_text, settings_to_text
from hvlite.lite.state.latents_file import LatentsNote, read_latents, read_latents_note, write_latents
from hvlite.lite.state.run_state import RunState, peek_run

SETTINGS = {
    "prompt": "a red circle 猫 😀",
    "seed": 1,
    "steps": 8,
    "guidance_scale": 6.0,
    "fps": 24,
    "negative_prompt": None,
}
MODEL = "0123456789abcdef"


def some_latents(step: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(1, 16, 3, 4, 6, generator=torch.Generator().manual_seed(step)).to(dtype)


def a_run(output: Path, steps: int = 3) -> None:
    """A run that stopped after `steps` steps."""
    with RunState.open(output) as state:
        assert not state.begin(SETTINGS, MODEL)
        for step in range(1, steps + 1):
            state.save_step(step, some_latents(step))


@pytest.fixture
def output(tmp_path: Path) -> Path:
    return tmp_path / "cat.mp4"


def test_a_stopped_run_goes_on_with_the_bits_of_its_last_step(output: Path) -> None:
    a_run(output)
    found = peek_run(output)
    assert found is not None
    assert (found.step, found.has_latents, found.settings, found.model_fingerprint) == (3, False, SETTINGS, MODEL)
    with RunState.open(output) as state:
        assert state.begin(SETTINGS, MODEL, resume=True)
        assert state.load_latents() is None
        loaded = state.load_step()
        assert loaded is not None
        assert loaded[0] == 3
        assert torch.equal(loaded[1], some_latents(3))
        state.save_latents(some_latents(8))
    with RunState.open(output) as state:
        assert state.begin(SETTINGS, MODEL, resume=True)
        latents = state.load_latents()
        assert latents is not None
        assert torch.equal(latents, some_latents(8))
    found = peek_run(output)
    assert found is not None
    assert found.has_latents


def test_nothing_to_go_on_from(output: Path) -> None:
    assert peek_run(output) is None
    with RunState.open(output) as state:
        assert not state.begin(SETTINGS, MODEL, resume=True)
        assert state.load_step() is None
        assert state.load_latents() is None
    assert peek_run(output) is None  # begun, but no step is done
    with RunState.open(output) as state:
        assert not state.begin({**SETTINGS, "seed": 2}, MODEL, resume=True)


def test_without_resume_the_old_work_goes(output: Path) -> None:
    a_run(output)
    with RunState.open(output) as state:
        assert not state.begin({**SETTINGS, "seed": 2}, MODEL)
        assert state.load_step() is None
    assert peek_run(output) is None


def test_other_settings_are_refused_with_each_difference_named(output: Path) -> None:
    a_run(output)
    before = {path.name: path.read_bytes() for path in (output.parent / "cat.mp4.hvlite").iterdir()}
    other = {**SETTINGS, "seed": 2, "prompt": "a blue star", "cfg_scale": 2.0}
    del other["negative_prompt"]
    with RunState.open(output) as state, pytest.raises(ConfigError) as caught:
        state.begin(other, "another", resume=True)
    for part in (
        "seed: 1 before, 2 now",
        'prompt: "a red circle 猫 😀" before, "a blue star" now',
        "cfg_scale: not set before, 2.0 now",
        "negative_prompt: null before, not set now",
        f'model_fingerprint: "{MODEL}" before, "another" now',
    ):
        assert part in caught.value.message
    assert "steps" not in caught.value.message
    after = {path.name: path.read_bytes() for path in (output.parent / "cat.mp4.hvlite").iterdir()}
    assert {**after, "lock": b""} == {**before, "lock": b""}
    with RunState.open(output) as state:
        assert state.begin(SETTINGS, MODEL, resume=True)


@pytest.mark.parametrize("change", [{"fps": 8}, {"vae_tiling": False}, {"crf": 30}])
def test_what_does_not_touch_the_latents_may_change(output: Path, change: dict[str, object]) -> None:
    a_run(output)
    with RunState.open(output) as state:
        assert state.begin({**SETTINGS, **change}, MODEL, resume=True)
        assert state.load_step() is not None


@pytest.mark.parametrize("change", [{"seed": 2}, {"steps": 9}, {"prompt": "b"}, {"anything_new": 1}])
def test_fingerprints_follow_what_the_latents_depend_on(change: dict[str, object]) -> None:
    assert fingerprint({**SETTINGS, **change}, MODEL) != fingerprint(SETTINGS, MODEL)
    assert fingerprint(SETTINGS, "another") != fingerprint(SETTINGS, MODEL)
    assert fingerprint(dict(reversed(SETTINGS.items())), MODEL) == fingerprint({**SETTINGS, "fps": 8}, MODEL)


def test_settings_texts() -> None:
    assert settings_from_text(settings_to_text(SETTINGS)) == SETTINGS
    for text in (None, "", "[]", "{}", '{"hvlite": 1}', "{" * 10_000, "[" * 100_000):
        assert settings_from_text(text) is None
    assert settings_differences({"a": 1, "b": [1, None]}, {"a": 1.5, "b": [1, None]}) == ["a: 1 before, 1.5 now"]


def test_a_second_run_into_the_same_output_is_refused_by_name(output: Path) -> None:
    with RunState.open(output) as state:
        state.begin(SETTINGS, MODEL)
        with pytest.raises(ConfigError, match=f"in use by another run \\(process {os.getpid()}\\)"):
            RunState.open(output)
        RunState.open(output.with_name("dog.mp4")).close()
    RunState.open(output).close()


def test_finish_leaves_nothing_or_the_latents(output: Path) -> None:
    for keep, left in ((True, ["latents.safetensors", "run.json"]), (False, [])):
        a_run(output)
        with RunState.open(output) as state:
            state.begin(SETTINGS, MODEL, resume=True)
            state.save_latents(some_latents(8))
            state.preview_path.write_bytes(b"a preview")
            (state.folder / ".0123456789abcdef.part").write_bytes(b"left by a kill")
            state.finish(keep=keep)
            assert (sorted(os.listdir(state.folder)) if state.folder.exists() else []) == left
    assert os.listdir(output.parent) == []


def test_finish_leaves_a_stranger_alone(output: Path) -> None:
    with RunState.open(output) as state:
        state.begin(SETTINGS, MODEL)
        (state.folder / "notes.txt").write_text("mine")
        state.finish(keep=False)
        assert os.listdir(state.folder) == ["notes.txt"]


def test_the_latents_file_is_enough_on_its_own(output: Path, tmp_path: Path) -> None:
    with RunState.open(output) as state:
        state.begin(SETTINGS, MODEL)
        state.save_latents(some_latents(8))
        moved = state.latents_path.rename(tmp_path / "elsewhere.safetensors")
    latents, note = read_latents(moved)
    assert torch.equal(latents, some_latents(8))
    assert (note.settings, note.step, note.fingerprint) == (SETTINGS, None, fingerprint(SETTINGS, MODEL))
    with safe_open(moved, framework="pt") as reference:
        assert reference.keys() == ["latents"]
        assert torch.equal(reference.get_tensor("latents"), some_latents(8))
        assert json.loads(reference.metadata()["settings"])["hvlite"] == SETTINGS


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_every_bit_of_every_dtype_survives(tmp_path: Path, dtype: torch.dtype) -> None:
    values = torch.cat([some_latents(1).flatten(), torch.tensor([float("nan"), float("inf"), -0.0, 1e-42])]).to(dtype)
    latents = values.reshape(1, 4, -1).transpose(1, 2)
    write_latents(tmp_path / "a.safetensors", latents, LatentsNote(SETTINGS, "f", 3))
    found, note = read_latents(tmp_path / "a.safetensors")
    assert (found.dtype, found.shape, note.step) == (dtype, latents.shape, 3)
    assert torch.equal(found.view(torch.uint8), latents.contiguous().view(torch.uint8))


def test_every_flipped_bit_is_found(output: Path) -> None:
    a_run(output)
    step_path = output.parent / "cat.mp4.hvlite" / "step.safetensors"
    good = step_path.read_bytes()
    header_bytes = 8 + int.from_bytes(good[:8], "little")
    randomness = random.Random(0)
    places = [*range(header_bytes), *(randomness.randrange(header_bytes, len(good)) for _ in range(200))]
    missed = []
    for place in places:
        damaged = bytearray(good)
        damaged[place] ^= 1 << randomness.randrange(8)
        step_path.write_bytes(damaged)
        try:
            read_latents(step_path)
            missed.append(place)
        except CheckpointError as error:
            assert "step.safetensors" in str(error)  # noqa: PT017  # every place is tried, not the first that fails
    assert missed == []


@pytest.mark.parametrize("name", ["step.safetensors", "run.json"])
@pytest.mark.parametrize("damage", ["empty", "cut", "garbage", "missing"])
def test_damaged_files_are_a_checkpoint_error_that_says_how_to_go_on(output: Path, name: str, damage: str) -> None:
    a_run(output)
    path = output.parent / "cat.mp4.hvlite" / name
    data = path.read_bytes()
    if damage == "missing":
        path.unlink()
    else:
        path.write_bytes({"empty": b"", "cut": data[: len(data) // 2], "garbage": b"\x80" * len(data)}[damage])
    if (name, damage) == ("step.safetensors", "missing"):
        assert peek_run(output) is None
        return
    with RunState.open(output) as state:
        with pytest.raises(CheckpointError, match=name) as caught:
            state.begin(SETTINGS, MODEL, resume=True)
        assert "--force" in (caught.value.hint or "")
        assert not state.begin(SETTINGS, MODEL)


def test_a_checkpoint_of_another_run_is_not_taken(output: Path) -> None:
    a_run(output)
    with RunState.open(output) as state:
        state.begin(SETTINGS, MODEL, resume=True)
        write_latents(state.step_path, some_latents(2), LatentsNote(SETTINGS, "another", 2))
        with pytest.raises(CheckpointError, match="belongs to a run with other settings"):
            state.load_step()


@pytest.mark.parametrize("step", ["", "-1", "1.5", "²", "many"])
def test_a_file_that_is_not_ours_is_refused(tmp_path: Path, step: str) -> None:
    from safetensors.torch import save_file

    path = tmp_path / "other.safetensors"
    metadata = {"settings": settings_to_text(SETTINGS), "step": step}
    for tensors, extra in (({"latents": some_latents()}, metadata), ({"latents": some_latents()}, None), ({}, None)):
        save_file(tensors, path, metadata=extra)
        for read in (read_latents, read_latents_note):
            with pytest.raises(CheckpointError, match="is not a latents file that hvlite wrote"):
                read(path)


def test_a_full_disk_keeps_the_step_before(output: Path) -> None:
    a_run(output)
    with RunState.open(output) as state:
        state.begin(SETTINGS, MODEL, resume=True)
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        size = state.step_path.stat().st_size
        for limit in (0, 8, size // 2, size - 1):
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
            try:
                with pytest.raises(DiskError, match=r"cannot write .*step\.safetensors"):
                    state.save_step(4, some_latents(4))
            finally:
                resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
            loaded = state.load_step()
            assert loaded is not None
            assert loaded[0] == 3
            assert torch.equal(loaded[1], some_latents(3))


@pytest.mark.parametrize("limit", [0, 10])
def test_a_full_disk_leaves_no_empty_folder(tmp_path: Path, limit: int) -> None:
    """Nothing can be written, or only the number of the process."""
    output = tmp_path / "cat.mp4"
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        with pytest.raises(DiskError), RunState.open(output) as state:
            state.begin(SETTINGS, MODEL)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["x" * 260 + ".mp4", "file/cat.mp4"])
def test_a_folder_that_cannot_be_made_is_a_disk_error(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(DiskError, match="cannot write"):
        RunState.open(tmp_path / name)


# One process forks a child a trial, so that fifty kills cost one import of torch.
KILLS = """
import os, random, signal, sys, time, torch
from pathlib import Path
from hvlite.lite.state.run_state import RunState

output, trials = Path(sys.argv[1]), int(sys.argv[2])
settings, model = {"prompt": "a", "seed": 1}, "m"
make = lambda step: torch.full((1, 16, 5, 64, 64), float(step))
with RunState.open(output) as state:
    state.begin(settings, model)
    state.save_step(1, make(1))
torn, last, randomness = 0, 1, random.Random(0)
for trial in range(trials):
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        state = RunState.open(output)  # the lock of the one that was killed is gone
        assert state.begin(settings, model, resume=True)
        step, latents = state.load_step()
        assert torch.equal(latents, make(step)), step
        os.write(writer, b"%d " % step)
        while True:
            step += 1
            state.save_step(step, make(step))
            os.write(writer, b"%d " % step)  # on disk from here on
    os.close(writer)
    said = os.read(reader, 100)
    time.sleep(randomness.random() * 0.02)
    os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status), f"trial {trial}: the child failed by itself"
    while more := os.read(reader, 10_000):
        said += more
    os.close(reader)
    told = [int(word) for word in said.split()]
    assert told[0] in (last, last + 1), (last, told)  # what was promised is there, or the step after it
    last = told[-1]
    torn += any(path.suffix == ".part" for path in Path(f"{output}.hvlite").iterdir())
print(torn, last)
"""


def test_kill_9_at_any_point_leaves_the_old_step_or_the_new_one(output: Path) -> None:
    done = subprocess.run([sys.executable, "-c", KILLS, str(output), "50"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    torn, last = map(int, done.stdout.split())
    assert torn >= 3, "hardly a kill fell into a write: the test proves nothing"
    assert last >= 1
    with RunState.open(output) as state:
        assert state.begin({"prompt": "a", "seed": 1}, "m", resume=True)
        loaded = state.load_step()
        assert loaded is not None
        assert loaded[0] in (last, last + 1)
        state.finish(keep=False)
    assert os.listdir(output.parent) == []


def test_a_lock_file_that_its_last_holder_removed_is_not_taken(output: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, flock, calls = output.with_name("cat.mp4.hvlite") / "lock", fcntl.flock, []

    def finishing_holder(fd: int, operation: int) -> None:
        calls.append(fd)
        if len(calls) == 1:
            path.unlink()
        flock(fd, operation)

    monkeypatch.setattr(fcntl, "flock", finishing_holder)
    with RunState.open(output):
        assert path.read_text() == str(os.getpid())
        with pytest.raises(ConfigError, match="in use"):
            RunState.open(output)
    assert len(calls) == 3


def test_the_lock_dies_with_its_process(output: Path) -> None:
    code = "import sys, time; from hvlite.lite.state.run_lock import RunLock; from pathlib import Path\n"
    code += "lock = RunLock.take(Path(sys.argv[1] + '.hvlite')); print('held', flush=True); time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", code, str(output)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        with pytest.raises(ConfigError, match=f"process {process.pid}"):
            RunState.open(output)
        process.send_signal(signal.SIGKILL)
        process.wait()
        RunState.open(output).close()
