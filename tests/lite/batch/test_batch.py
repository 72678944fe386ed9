"""`hvlite batch` with the model that ships: bad prompts, going on, Ctrl-C, the same bits as `hvlite generate`."""

from __future__ import annotations

import contextlib
import json
import re
import time
from pathlib import Path

import pytest
import torch

from hvlite.cli import main
from hvlite.lite import job
from hvlite.lite.interrupt import StopFlag
from hvlite.lite.output.video_read import read_video
from hvlite.lite.parts import ModelParts

SMALL = ["--steps", "2", "--frames", "5", "--video-size", "64", "64", "--lossless"]
CSV = "prompt,seed,steps\na red circle moves to the right,,\n,8,\na blue star goes up,9,1\na green square,x,\n"


@pytest.fixture
def run(tmp_path: Path):
    """run(*arguments): the exit code and the manifest after `hvlite batch` on the CSV above."""
    prompts = tmp_path / "prompts.csv"
    prompts.write_text(CSV)

    def batch(*arguments: str) -> tuple[int, dict]:
        code = main(["batch", str(prompts), "--save-path", str(tmp_path / "out"), *SMALL, *arguments])
        return code, json.loads((tmp_path / "out" / "manifest.json").read_text())

    return batch


def states(manifest: dict) -> list[str]:
    return [video["state"] for video in manifest["videos"]]


def test_a_batch(run, tmp_path, capsys, monkeypatch):
    loads = []
    real = ModelParts.text
    monkeypatch.setattr(ModelParts, "text", lambda self, **ways: loads.append(1) or real(self, **ways))
    code, manifest = run("--seed", "40", "--no-prompt-cache")
    assert code == 1  # two prompts are wrong, the others are made
    assert states(manifest) == ["done", "failed", "done", "failed"]
    assert [video["seed"] for video in manifest["videos"]] == [40, 8, 9, 43]
    assert "empty" in manifest["videos"][1]["error"]
    assert "'x' is not a number" in manifest["videos"][3]["error"]
    assert manifest["videos"][2]["settings"]["steps"] == 1
    assert manifest["videos"][0]["seconds"] > 0
    assert len(loads) == 1
    assert "2 of 4 prompts failed" in capsys.readouterr().err
    out = tmp_path / "out"
    assert sorted(path.suffix for path in out.iterdir()) == [".json", ".mkv", ".mkv"]

    arguments = ["generate", "a red circle moves to the right", "--seed", "40", *SMALL, "--no-prompt-cache"]
    assert main([*arguments, "--output", str(tmp_path / "one.mkv")]) == 0
    alone, _ = read_video(tmp_path / "one.mkv")
    together, _ = read_video(out / manifest["videos"][0]["output"])
    assert torch.equal(alone, together)

    before = {path: path.stat().st_mtime_ns for path in out.glob("*.mkv")}
    code, again = run()  # nothing is left to embed; the seed is that of the manifest
    assert code == 1
    assert again["base_seed"] == 40
    assert again["videos"][0]["seconds"] == manifest["videos"][0]["seconds"]
    assert {path: path.stat().st_mtime_ns for path in out.glob("*.mkv")} == before
    assert len(loads) == 2  # one of them by `generate`


def test_times_left_are_those_of_the_prompts_and_of_seconds(tmp_path, monkeypatch, capsys):
    real = ModelParts.text

    @contextlib.contextmanager
    def slow(self, **ways):
        time.sleep(1.5)  # the load
        with real(self, **ways) as text:
            yield text

    monkeypatch.setattr(ModelParts, "text", slow)
    (tmp_path / "p.txt").write_text("a red circle\na blue star\na green square\n")
    arguments = ["batch", str(tmp_path / "p.txt"), "--save-path", str(tmp_path / "out"), *SMALL, "--json"]
    assert main([*arguments, "--steps", "1", "--no-prompt-cache"]) == 0
    events = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    embedding = [each["seconds"] for each in events if each["event"] == "step_done" and each["stage"] == "embed"]
    assert len(embedding) == 3
    assert embedding[0] < 1.5
    said = [each["text"] for each in events if each["event"] == "note" and " left, about " in each["text"]]
    assert [text.partition(" left, about ")[0][-2:] for text in said] == ["(2", "(1"]
    assert all(re.search(r"about [\d.]+ s\)$", text) for text in said)


def test_stopped_and_gone_on_with(run, tmp_path, monkeypatch, capsys):
    real = job._Run.decode

    def stopping(self, latents, settings):
        self.stop.request()
        real(self, latents, settings)

    monkeypatch.setattr(job._Run, "decode", stopping)
    code, manifest = run("--seed", "1")
    assert code == 130
    assert "the same command goes on" in capsys.readouterr().err
    assert states(manifest) == ["done", "failed", "waiting", "failed"]
    monkeypatch.undo()
    code, manifest = run()
    assert code == 1
    assert states(manifest) == ["done", "failed", "done", "failed"]


def test_a_bug_in_one_video_does_not_cost_the_others(run, monkeypatch):
    real = job._Run.denoise

    def failing(self, start):
        if self.config.seed == 9:
            raise RuntimeError("boom")
        return real(self, start)

    monkeypatch.setattr(job._Run, "denoise", failing)
    code, manifest = run("--seed", "1")
    assert code == 1
    assert states(manifest) == ["done", "failed", "failed", "failed"]
    assert manifest["videos"][2]["error"] == "RuntimeError: boom"
    monkeypatch.undo()
    assert states(run()[1]) == ["done", "failed", "done", "failed"]


def test_a_full_disk_ends_the_batch(run, monkeypatch):
    from hvlite.errors import DiskError

    def full(self, start):
        raise DiskError("no space left")

    monkeypatch.setattr(job._Run, "denoise", full)
    code, manifest = run("--seed", "1")
    assert code == 4
    assert states(manifest) == ["waiting", "failed", "waiting", "failed"]


def test_dry_run_writes_nothing(tmp_path, capsys):
    (tmp_path / "p.txt").write_text("a red circle\na blue star\n")
    arguments = ["batch", str(tmp_path / "p.txt"), "--save-path", str(tmp_path / "out"), "--dry-run", "--json"]
    assert main([*arguments, "--seed", "3"]) == 0
    plans = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(plan["prompt"], plan["seed"]) for plan in plans] == [("a red circle", 3), ("a blue star", 4)]
    assert not (tmp_path / "out").exists()


def test_stopping_before_the_first_video(tmp_path):
    from hvlite.errors import InterruptedRunError
    from hvlite.lite.batch.folder import hold_folder
    from hvlite.lite.batch.prompts import read_prompts
    from hvlite.lite.batch.run import prepare_batch, run_batch
    from hvlite.lite.request.options import GenerateOptions

    (tmp_path / "p.txt").write_text("a red circle\n")
    rows, _ = read_prompts(tmp_path / "p.txt")
    batch = prepare_batch(tmp_path / "p.txt", rows, tmp_path / "out", GenerateOptions(seed=1, steps=1))
    stop = StopFlag()
    stop.request()
    with hold_folder(tmp_path / "out"), pytest.raises(InterruptedRunError):
        run_batch(batch, lambda event: None, stop)
    assert (tmp_path / "out" / "manifest.json").exists()


def test_embeddings_that_are_kept_load_no_encoder(run, tmp_path, monkeypatch):
    assert run("--seed", "1")[0] == 1
    (tmp_path / "out").rename(tmp_path / "first")

    def refused(self, **ways):
        raise AssertionError("the encoders were loaded again")

    monkeypatch.setattr(ModelParts, "text", refused)
    code, manifest = run("--seed", "2")  # other videos of the same prompts
    assert code == 1
    assert states(manifest) == ["done", "failed", "done", "failed"]
