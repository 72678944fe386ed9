"""A random model made part by part is one that verifies and runs, in the memory that was planned for it."""

from __future__ import annotations

import json
import shutil

import pytest

from hvlite.benchmarks.bench_disk_tier import main
from hvlite.benchmarks.full_size_folder import complete_folder
from hvlite.quantize.format import read_manifest
from hvlite.quantize.recipe import PARTS
from hvlite.quantize.verify import run_verify


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("full") / "model"
    assert complete_folder(folder, small=True) == list(PARTS)
    return folder


def test_it_is_a_whole_model(folder):
    found = run_verify(folder)
    assert found.ok, found.problems
    assert {name.split("/")[0] for name in read_manifest(folder).files} > {*PARTS, "tokenizer", "tokenizer_2"}
    assert read_manifest(folder).schemes.keys() == {"transformer", "text_encoder"}
    assert json.loads((folder / "report.json").read_bytes())["totals"].keys() == {*PARTS}
    assert [path.name for path in folder.parent.iterdir()] == ["model"]


def test_parts_that_are_there_are_kept(folder, tmp_path):
    other = tmp_path / "model"
    shutil.copytree(folder, other)
    assert complete_folder(other, small=True) == []
    assert read_manifest(other) == read_manifest(folder)


def test_one_command_makes_it_and_runs_it_below_its_plan_and_its_cap(folder, tmp_path, monkeypatch):
    output = tmp_path / "results" / "memory.json"
    options = ["--make", "small", "--tiers", "disk", "--ram-limit", "2GiB", "--output", str(output)]
    monkeypatch.setattr("sys.argv", ["bench_disk_tier", str(folder), *options])
    main()
    said = json.loads(output.read_text())
    assert (said["parts"], said["size"], said["steps"]) == ("all", [64, 64, 5], 1)
    (run,) = said["runs"]
    assert (run["tier"], run["under_plan"], run["under_cap"]) == ("disk", True, True)
    assert [stage["stage"] for stage in run["stages"]] == ["embed", "denoise", "decode"]
    assert max(stage["peak_rss_bytes"] for stage in run["stages"]) == run["peak_rss_bytes"]
    assert run["streamed_bytes"] > 0
