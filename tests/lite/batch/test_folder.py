"""One batch at a time in a folder, and no other prompts over its manifest."""

from __future__ import annotations

import errno
import json
import os
from dataclasses import replace
from pathlib import Path

import pytest

from hvlite.cli import main
from hvlite.errors import ConfigError, DiskError
from hvlite.lite.batch.folder import LOCK_NAME, check_same_batch, hold_folder
from hvlite.lite.batch.manifest import Earlier, Entry

A = Entry(1, "a cat", 7, "0001_a-cat_seed7.mp4", "done", 2.0)
B = Entry(2, "a dog", 8, "0002_a-dog_seed8.mp4")
C = Entry(3, "", 9, "0003_video_seed9.mp4", "failed", error="empty")
D = Entry(4, "a fox", 10, "0004_a-fox_seed10.mp4")


def batch_command(tmp_path: Path, text: str, name: str = "p.txt", *more: str) -> int:
    (tmp_path / name).write_text(text)
    small = ["--steps", "1", "--frames", "1", "--video-size", "64", "64"]
    return main(["batch", str(tmp_path / name), "--save-path", str(tmp_path / "out"), *small, *more])


def test_a_second_batch_is_refused_and_changes_nothing(tmp_path, capsys):
    out = tmp_path / "out"
    with hold_folder(out):
        (out / "manifest.json").write_text("the first one is writing")
        assert batch_command(tmp_path, "a cat\n") == 2
        assert sorted(path.name for path in out.iterdir()) == [LOCK_NAME, "manifest.json"]
        assert (out / "manifest.json").read_text() == "the first one is writing"
    error = capsys.readouterr().err.splitlines()
    assert error == [
        f"error: {out} is in use by another run (process {os.getpid()})",
        "hint: wait for it, or choose another --save-path",
    ]
    with hold_folder(out):
        pass
    assert [path.name for path in out.iterdir()] == ["manifest.json"]


def test_a_batch_holds_the_folder_while_it_works(tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr("hvlite.lite.batch.run._make_all", lambda *args: seen.extend(os.listdir(tmp_path / "out")))
    assert batch_command(tmp_path, "a cat\n") == 0
    assert sorted(seen) == [LOCK_NAME, "manifest.json"]
    assert os.listdir(tmp_path / "out") == ["manifest.json"]


@pytest.mark.parametrize("full", ["signing the lock", "the check of the disk"])
def test_a_full_disk_leaves_no_folder(tmp_path, monkeypatch, full):
    def no_space(*args, **named):
        if full == "signing the lock":
            raise OSError(errno.ENOSPC, "No space left on device")
        raise DiskError("no space left")

    if full == "signing the lock":
        monkeypatch.setattr(os, "ftruncate", no_space)
    else:
        monkeypatch.setattr("hvlite.lite.request.preflight.check_disk", no_space)
    (tmp_path / "p.txt").write_text("a cat\n")
    assert main(["batch", str(tmp_path / "p.txt"), "--save-path", str(tmp_path / "new" / "out")]) == 4
    assert [path.name for path in tmp_path.iterdir()] == ["p.txt"]


def test_other_prompts_do_not_replace_a_manifest(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("hvlite.lite.batch.run._make_all", lambda *args: None)
    manifest = tmp_path / "out" / "manifest.json"
    assert batch_command(tmp_path, "a cat\na dog\n", "first.txt") == 0
    before = manifest.read_bytes()
    for more in ([], ["--dry-run"]):
        capsys.readouterr()
        assert batch_command(tmp_path, "a fox\n", "second.txt", *more) == 2
        error = capsys.readouterr().err
        assert "prompts from first.txt): prompt 1 is 'a cat', but 'a fox' in second.txt" in error
        assert "another --save-path" in error
        assert manifest.read_bytes() == before
    assert batch_command(tmp_path, "a cat\na dog\na fox\n", "grown.txt") == 0
    grown = json.loads(manifest.read_text())
    assert [video["prompt"] for video in grown["videos"]] == ["a cat", "a dog", "a fox"]
    assert grown["base_seed"] == json.loads(before)["base_seed"]


def refused(tmp_path: Path, earlier: list[Entry], now: list[Entry]) -> str:
    try:
        check_same_batch(tmp_path, Earlier("old.txt", 7, tuple(earlier)), "new.txt", now)
    except ConfigError as error:
        return error.message
    return ""


def test_what_may_go_on_in_a_folder(tmp_path):
    old = [A, B, C]
    assert refused(tmp_path, old, [*old, D]) == ""
    assert refused(tmp_path, old, [A, B]) == ""
    assert refused(tmp_path, old, [A, B, replace(C, prompt="corrected")]) == ""
    assert "prompt 2 is 'a dog', and there is none in new.txt" in refused(tmp_path, old, [A])
    assert "prompt 1 is 'a cat', but 'a dog' in new.txt" in refused(tmp_path, old, [replace(B, number=1)])
    other_seed = [replace(A, seed=1, output="0001_a-cat_seed1.mp4"), B]
    assert refused(tmp_path, old, other_seed) == ""  # nothing is there that could be lost
    (tmp_path / A.output).touch()
    assert "video 1 is 0001_a-cat_seed7.mp4, but would be 0001_a-cat_seed1.mp4" in refused(tmp_path, old, other_seed)


def test_an_unfinished_video_is_kept_in_the_manifest(tmp_path):
    (tmp_path / f"{C.output}.hvlite").mkdir()
    assert "prompt 3 is ''" in refused(tmp_path, [C], [replace(C, prompt="another")])
