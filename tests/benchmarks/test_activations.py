"""What steps hold, counted on fake tensors, hvlite's and diffusers' alike; and the docs say what was counted."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from hvlite.benchmarks import activations
from hvlite.benchmarks.activation_peaks import (
    blocks_peak,
    build_diffusers,
    build_transformer,
    diffusers_blocks_peak,
    diffusers_step_peak,
    step_peak,
    whole_blocks_peak,
)
from hvlite.benchmarks.activations import RESULTS, Row
from hvlite.benchmarks.cases import LARGEST, NARROW_BLOCKS, Case
from hvlite.benchmarks.fake_card import ASKING, kernels_on_fakes
from hvlite.kernels import ops
from hvlite.kernels.attention_variant import INT8_FP8, INT8_FP16, VARIANTS
from hvlite.lite.attention import EXACT, Attention

ROOT = Path(__file__).parents[2]
SMALL = Case(256, 256, 17, text_tokens=64)  # 1280 tokens of video
FP8 = Attention("hvlite", INT8_FP8, "a test")
FP16 = Attention("hvlite", INT8_FP16, "a test")


@pytest.fixture(scope="module")
def committed() -> dict[str, Any]:
    made: dict[str, Any] = json.loads(RESULTS.read_text(encoding="utf-8"))
    return made


# On a card's way


def test_the_scope_gives_back_what_was_there_after_an_error_too() -> None:
    before = [module.runs_kernels for module in ASKING]
    cpu = torch.device("cpu")
    with kernels_on_fakes():
        assert all(module.runs_kernels(cpu) for module in ASKING)
    assert [module.runs_kernels for module in ASKING] == before
    with pytest.raises(ZeroDivisionError), kernels_on_fakes():
        raise ZeroDivisionError
    assert [module.runs_kernels for module in ASKING] == before
    assert not ops.runs_kernels(cpu)


def test_no_module_that_asks_is_forgotten() -> None:
    files = (ROOT / "kernels").glob("*.py")
    wanted = {path.stem for path in files if re.search(r"^from .*import.* runs_kernels", path.read_text("utf-8"), re.M)}
    assert {module.__name__.rpartition(".")[2] for module in ASKING} == wanted


def test_kernels_make_other_tensors_than_references() -> None:
    """Were the scope to do nothing, the figures would be a CPU's: products summed in memory before they are scaled."""
    with FakeTensorMode():
        model = build_transformer(NARROW_BLOCKS, torch.bfloat16, torch.int8, "w8a8")
        on_cpu = blocks_peak(model, SMALL, 512, EXACT).nbytes
        with kernels_on_fakes():
            on_card = blocks_peak(model, SMALL, 512, EXACT).nbytes
    assert on_card < on_cpu


# What is counted


@pytest.mark.parametrize("peak", [step_peak, blocks_peak])
def test_larger_chunks_and_a_larger_v_hold_more(peak: Callable[..., Any]) -> None:
    with FakeTensorMode(), kernels_on_fakes():
        model = build_transformer(NARROW_BLOCKS, torch.bfloat16, torch.int8, "w8a8")
        by_chunk = [peak(model, SMALL, chunk, FP8).nbytes for chunk in (128, 256, 512)]
        larger_v = peak(model, SMALL, 128, FP16).nbytes
    assert by_chunk == sorted(set(by_chunk))
    assert larger_v - by_chunk[0] >= SMALL.tokens * NARROW_BLOCKS.hidden_size  # a byte more for each value


def test_blocks_count_what_must_be_there_and_little_else() -> None:
    """One chunk of all: the tokens, K and V, and what the single block's MLP needs at least."""
    hidden = NARROW_BLOCKS.hidden_size
    with FakeTensorMode(), kernels_on_fakes():
        found = blocks_peak(build_transformer(NARROW_BLOCKS, torch.bfloat16), SMALL, 4096, EXACT).nbytes
    kept = 3 * SMALL.tokens * hidden * 2
    widest = SMALL.video_tokens * 5 * hidden * 2  # linear2's input
    assert kept + widest <= found <= kept + 2 * widest


@pytest.mark.parametrize(("mine", "theirs"), [(step_peak, diffusers_step_peak), (blocks_peak, diffusers_blocks_peak)])
def test_diffusers_holds_more(mine: Callable[..., Any], theirs: Callable[..., Any]) -> None:
    pytest.importorskip("diffusers", reason="the test extra has it")
    with FakeTensorMode():
        peer = theirs(build_diffusers(NARROW_BLOCKS, torch.bfloat16), SMALL).nbytes
        with kernels_on_fakes():
            model = build_transformer(NARROW_BLOCKS, torch.bfloat16)
            whole, ours = whole_blocks_peak(model, SMALL).nbytes, mine(model, SMALL, 128, EXACT).nbytes
    assert 2 * ours < min(peer, whole)


def test_diffusers_counts_alike_on_real_tensors() -> None:
    """Its forward depends on no value: fake tensors take the same way, and count the same bytes."""
    pytest.importorskip("diffusers", reason="the test extra has it")
    case = Case(64, 64, 5, text_tokens=32)
    torch.manual_seed(0)
    real = diffusers_step_peak(build_diffusers(NARROW_BLOCKS, torch.bfloat16), case)
    with FakeTensorMode():
        fake = diffusers_step_peak(build_diffusers(NARROW_BLOCKS, torch.bfloat16), case)
    assert fake == real


# What is written


def test_the_docs_show_the_committed_tables(committed: dict[str, Any]) -> None:
    page = activations.DOCS.read_text(encoding="utf-8")
    assert activations.with_tables(page, committed) == page, "run python -m hvlite.benchmarks.activations --docs"


def test_the_committed_results_are_whole(committed: dict[str, Any]) -> None:
    assert committed["not_run"] == []
    assert [name for name, each in committed["versions"].items() if not each] == []
    found = [(row["maker"], *key_of(row)) for row in committed["rows"] if row["chunk"]]
    wanted = itertools.product(
        ["hvlite"],
        activations.SCOPES,
        [case.name for case in activations.SIZES],
        activations.ATTENTIONS,
        activations.WEIGHTS,
        activations.CHUNKS,
    )
    assert sorted(found) == sorted(wanted)


def test_attention_in_every_form_is_counted() -> None:
    assert set(activations.ATTENTIONS) == {"sdpa", *VARIANTS}


def test_the_committed_figures_are_what_this_code_holds(committed: dict[str, Any]) -> None:
    """Blocks in chunks and whole, and diffusers' step, at the largest video; other torches may differ a little."""
    pytest.importorskip("diffusers", reason="the test extra has it")
    rows: list[Row] = list(activations.hvlite_rows("blocks", (LARGEST,), (8192,), ("int8-fp8", "int8-fp16"), ("int8",)))
    rows += activations.whole_block_rows((LARGEST,))
    rows += activations.diffusers_rows("step", (LARGEST,))
    assert len(rows) == 4
    same_as_committed(rows, committed)


@pytest.mark.slow
def test_the_committed_figures_of_a_whole_step(committed: dict[str, Any]) -> None:
    rows = list(activations.hvlite_rows("step", (LARGEST,), (16384,), ("int8-fp8",)))
    assert len(rows) == 2
    same_as_committed(rows, committed)


def test_the_goal_of_seven_times_less(committed: dict[str, Any]) -> None:
    """Of a double and a single block at 118,800 tokens, K in int8 and V in e4m3, chunks as they are by default."""
    (peer,) = [r for r in committed["rows"] if (r["maker"], *key_of(r)) == PEER]
    (ours,) = [r for r in committed["rows"] if (r["maker"], *key_of(r)) == OURS]
    assert peer["peak_bytes"] >= 7 * ours["peak_bytes"]


def test_without_diffusers_a_row_is_left_out_and_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(activations, "version", raising_not_found)
    monkeypatch.setattr(activations, "hvlite_rows", lambda scope: iter([row(scope, "hvlite", 1 << 30, 4096)]))
    monkeypatch.setattr(activations, "whole_block_rows", lambda: iter(()))
    made = activations.count_all(lambda row: None)
    assert made["not_run"] == [{"maker": "diffusers", "reason": "diffusers is not installed (pip install diffusers)"}]
    text = activations.docs_text(made)
    assert text.count("| sdpa | bf16 | 1.00 |") == 2  # no ratio to what was not counted
    assert text.endswith("Not run: diffusers is not installed (pip install diffusers).")


def test_ratios_are_to_diffusers_of_the_same_scope() -> None:
    rows = [row("step", "diffusers", 6 << 30, None), row("blocks", "diffusers", 4 << 30, None)]
    rows += [row(scope, "hvlite", gib << 30, chunk) for scope in ("step", "blocks") for gib, chunk in PAIRS]
    text = activations.docs_text({"versions": {"torch": "2", "diffusers": "1"}, "rows": rows, "not_run": []})
    step, blocks = text.split("**A double block")
    assert "| diffusers, sdpa, no chunks | bf16 | 6.00 |  |" in step
    assert "| sdpa | bf16 | 2.00 (3.0x) | 3.00 (2.0x) |" in step
    assert "| sdpa | bf16 | 2.00 (2.0x) | 3.00 (1.3x) |" in blocks


PAIRS = ((2, 4096), (3, 8192))
PEER = ("diffusers", "blocks", LARGEST.name, "sdpa", "bf16", None)
OURS = ("hvlite", "blocks", LARGEST.name, "int8-fp8", "int8", 8192)


def key_of(row: Row) -> tuple[Any, ...]:
    return row["scope"], row["size"], row["attention"], row["weights"], row["chunk"]


def same_as_committed(rows: list[Row], committed: dict[str, Any]) -> None:
    for found in rows:
        same = {name: value for name, value in found.items() if not name.startswith("peak")}
        (known,) = [each for each in committed["rows"] if same.items() <= each.items()]
        assert found["peak_bytes"] == pytest.approx(known["peak_bytes"], rel=0.01), same


def raising_not_found(name: str) -> str:
    raise activations.PackageNotFoundError(name)


def row(scope: str, maker: str, nbytes: int, chunk: int | None) -> Row:
    return {
        "scope": scope,
        "maker": maker,
        "size": "720x1280x129",
        "tokens": 119_056,
        "depth": [1, 1],
        "weights": "bf16",
        "attention": "sdpa",
        "chunk": chunk,
        "peak_bytes": nbytes,
        "peak_operator": "",
    }
