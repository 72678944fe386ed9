"""The parts of the suite on small shapes: real streaming, real decodes, gates, limits of time."""

from __future__ import annotations

import json
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from hvlite.benchmarks import bench_stream, bench_vae, suite
from hvlite.benchmarks.bench_quality import Configuration, run_configurations
from hvlite.benchmarks.cases import (
    FEW_BLOCKS,
    LARGEST,
    NARROW_BLOCKS,
    NARROW_VAE,
    OFFICIAL,
    Case,
    flops_of_step,
)
from hvlite.benchmarks.part_list import PARTS, choose_parts
from hvlite.benchmarks.quality import PROMPTS, convert_all
from hvlite.benchmarks.random_model import make_block_store, open_random_transformer
from hvlite.benchmarks.results import GateError, Result, check_gate, parse_results, read_results
from hvlite.benchmarks.run_planned import PlannedRun, make_run, measure
from hvlite.benchmarks.suite import BenchOptions, run_suite
from hvlite.benchmarks.timing import time_work
from hvlite.cli import main
from hvlite.errors import ConfigError
from hvlite.lite.card import demo_root
from hvlite.lite.device import DeviceInfo, cap_device_memory
from hvlite.lite.planning.model import plan_model
from hvlite.lite.planning.types import CONTEXT_BYTES, GIB
from hvlite.lite.streaming.tiers import TierCounts
from hvlite.quantize.architecture import TransformerConfig

CPU = torch.device("cpu")
CASE = Case(64, 48, 5, text_tokens=7)


@pytest.fixture
def options(tmp_path: Path) -> BenchOptions:
    return BenchOptions(CPU, time.monotonic() + 600, tmp_path)


def test_the_cases_are_the_official_sizes():
    assert len(OFFICIAL) == 20
    assert LARGEST in OFFICIAL
    assert LARGEST.video_tokens == 118_800
    attention, linear = flops_of_step(TransformerConfig(), LARGEST)
    assert attention == pytest.approx(10.45e15, rel=0.01)
    assert linear == pytest.approx(1.62e15, rel=0.01)
    assert FEW_BLOCKS.hidden_size == 3072


def test_a_cap_is_that_of_a_run(monkeypatch):
    """What a benchmark may allocate under a limit is what `hvlite generate` may."""
    card = SimpleNamespace(total_memory=24 * GIB)
    given: list[tuple[float, torch.device]] = []
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: card)
    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", lambda *each: given.append(each))
    device = torch.device("cuda", 0)
    suite.cap_device(device, 12 * GIB)
    cap_device_memory(DeviceInfo(device, "a card", (8, 9), card.total_memory), 12 * GIB - CONTEXT_BYTES)
    assert given[0] == given[1]


@pytest.mark.parametrize("scheme", ["fp8", "int8", "bf16"])
def test_random_blocks_are_those_of_a_converted_model(tmp_path: Path, scheme: str):
    """The bytes a step streams are what the plan counts, for the real shapes of one block of each kind."""
    store = make_block_store(tmp_path, NARROW_BLOCKS, scheme)
    assert len(store.files) == 5
    assert store.files[0].path.stat().st_size >= store.files[0].nbytes


@pytest.mark.slow
def test_random_blocks_have_the_real_sizes(tmp_path: Path):
    store = make_block_store(tmp_path, FEW_BLOCKS, "int8")
    planned = plan_model("hunyuan-video-int8").blocks
    assert [file.nbytes for file in store.files] == [planned[0], planned[-1]]


def test_stream_in_every_tier(options):
    store = make_block_store(options.work, NARROW_BLOCKS, "int8")
    results = list(bench_stream.run_cases(options, store, (CASE,)))
    assert [result.settings["tier"] for result in results] == ["resident", "host", "disk"]
    assert [result.streamed_bytes for result in results] == [0, store.nbytes, store.nbytes]
    assert all(result.seconds and result.seconds.median > 0 and result.peaks.rss_bytes for result in results)
    assert all(0 < result.values["overlap_share"] <= 1 for result in results[1:])
    assert options.skipped == []


def test_a_wrong_tier_is_not_timed(options, monkeypatch):
    store = make_block_store(options.work, NARROW_BLOCKS, "int8")
    real = bench_stream.step_function

    def wrong(transformer, case, *rest, **more):
        step = real(transformer, case, *rest, **more)
        return lambda: step() + (transformer.blocks.tiers == TierCounts(host=5))

    monkeypatch.setattr(bench_stream, "step_function", wrong)
    results = bench_stream.run_cases(options, store, (CASE,))
    next(results)
    with pytest.raises(GateError, match="same bits"):
        next(results)


def test_no_time_is_said(tmp_path: Path):
    options = BenchOptions(CPU, time.monotonic() - 1, tmp_path)
    store = make_block_store(tmp_path, NARROW_BLOCKS, "int8")
    assert list(bench_stream.run_cases(options, store, (CASE,))) == []
    assert len(options.skipped) == 3


def test_random_weights_give_finite_steps_that_differ(tmp_path: Path):
    """Not a model of anything, but its numbers are of a size that a step is timed with."""
    store = make_block_store(tmp_path, NARROW_BLOCKS, "fp8")
    transformer = open_random_transformer(store, TierCounts(2, 1, 2), CPU, torch.float32)
    one = bench_stream.step_function(transformer, CASE)()
    other = bench_stream.step_function(transformer, Case(48, 64, 5, text_tokens=7))()
    transformer.close()
    assert torch.isfinite(one).all()
    assert 1e-3 < float(one.std()) < 1e4
    assert one.shape != other.shape


def test_vae_whole_and_lean(options):
    vae = bench_vae.random_vae(NARROW_VAE, CPU, torch.float32)
    results = list(bench_vae.run_tiles(options, vae, ((2, 4, 4),)))
    assert len(results) == 2
    assert all(0.98 <= result.values["planned_to_counted_ratio"] < 1.3 for result in results)


def test_a_planned_run(tmp_path: Path):
    planned = make_run(Case(64, 64, 9), None, "cpu", 2, narrow=True)
    assert isinstance(planned, PlannedRun)
    made = measure(planned)
    assert [result.case.rpartition(": ")[2] for result in made.results] == ["denoise step", "decode and write"]
    assert made.results[1].values["video_bytes"] > 0
    stages = {sample.stage for sample in made.timelines[0].samples}
    assert stages == {"denoise", "decode"}
    assert parse_results(json.loads(json.dumps(made.to_json())), "made") == made


def test_time_work_warms_up_and_stops_in_time():
    calls = []
    seconds = time_work(lambda: calls.append(1), CPU, repeats=4, warm_up=2)
    assert (len(calls), seconds.runs) == (6, 4)
    assert seconds.least <= seconds.median <= seconds.most
    assert time_work(lambda: None, CPU, repeats=4, until=time.monotonic() - 1).runs == 1


def test_the_suite_keeps_what_it_has_and_says_what_it_left_out(monkeypatch):
    def run(options):
        yield Result(part="vae", case="one", gate="finite")
        raise ConfigError("the second does not go", hint="here")

    monkeypatch.setattr(suite, "import_module", lambda name, package: type("Module", (), {"run": staticmethod(run)}))
    *_, made = run_suite(["vae"], device="cpu", minutes=1)
    assert [result.case for result in made.results] == ["one"]
    assert [each.reason for each in made.not_run] == ["the second does not go (here)"]
    assert made.machine["kind"] == "cpu"


def test_a_wrong_result_is_told_at_the_end(monkeypatch, tmp_path, capsys):
    def run(options):
        check_gate(False, "equal bits")
        yield Result(part="vae", case="one", gate="equal bits")

    monkeypatch.setattr(suite, "import_module", lambda name, package: type("Module", (), {"run": staticmethod(run)}))
    assert main(["bench", "vae", "--device", "cpu", "--output", str(tmp_path / "a.json")]) == 70
    made = read_results(tmp_path / "a.json")
    assert made.results == ()
    assert made.not_run[0].wrong
    assert "equal bits" in capsys.readouterr().err


def test_names_of_parts():
    assert "quality" in PARTS
    assert choose_parts([]) == [name for name in PARTS if name != "quality"]
    assert choose_parts(["vae", "vae"]) == ["vae"]
    with pytest.raises(ConfigError, match="no such part"):
        choose_parts(["nix"])


def test_command_line(capsys, tmp_path: Path):
    assert main(["bench", "nix"]) == 2
    assert main(["bench", "vae", "--device", "cpu", "--vram-limit", "8GiB"]) == 5
    assert "--vram-limit" in capsys.readouterr().err
    (tmp_path / "a.json").write_text("{}")
    assert main(["bench", "--compare", str(tmp_path / "a.json"), str(tmp_path / "a.json")]) == 3


@pytest.mark.slow
def test_quality_of_configurations(options):
    folders = convert_all(demo_root(), options.work, "transformer", ("int8",))
    chosen = [
        Configuration("as it ships"),
        Configuration("int8", folders["int8"], {"linear": "dequantize"}),
        Configuration("int8, w8a8", folders["int8"], {"linear": "w8a8"}),
        Configuration("disk", folders["int8"], {"tier": "disk", "linear": "w8a8"}),
    ]
    results = list(run_configurations(options, chosen, PROMPTS[:1], 1))
    by_name = {result.case: result.values for result in results}
    assert by_name["as it ships"]["least_cosine"] == pytest.approx(1.0, abs=1e-9)
    assert by_name["as it ships"]["mean_relative_error"] < 1e-4
    assert by_name["as it ships"]["psnr_db"] is None  # the same frames
    assert 0.99 < by_name["int8"]["least_cosine"] < 1
    # Quantized activations err more, and they do so in blocks that stream too.
    assert by_name["int8, w8a8"]["mean_relative_error"] > by_name["int8"]["mean_relative_error"] * 1.1
    assert by_name["disk"]["least_cosine"] == by_name["int8, w8a8"]["least_cosine"]
    assert {"colour_share", "motion_share", "shape_share"} <= by_name["disk"].keys()
    assert by_name["decode in chunks of time"]["largest_difference"] <= 2
