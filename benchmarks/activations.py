"""How much a transformer step holds beside its weights, at real sizes, hvlite's and diffusers': no card takes part.

    python -m hvlite.benchmarks.activations --out benchmarks/results/activations.json   # count: eight minutes on a CPU
    python -m hvlite.benchmarks.activations --docs    # write the tables of docs/kernels.md from these results
    python -m hvlite.benchmarks.activations --check   # exit code 1 where the tables are not what the results say

The 13B model on fake tensors; activation_peaks.py says what is counted.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from ..files import read_json, write_atomic
from ..kernels.attention_variant import VARIANTS
from ..lite.attention import EXACT, Attention
from ..quantize.architecture import TransformerConfig
from .activation_peaks import (
    Measured,
    blocks_peak,
    build_diffusers,
    build_transformer,
    diffusers_blocks_peak,
    diffusers_step_peak,
    step_peak,
    whole_blocks_peak,
)
from .cases import FEW_BLOCKS, LARGEST, Case
from .fake_card import kernels_on_fakes
from .tables import markdown, replaced_between

Row = dict[str, Any]
RESULTS = Path(__file__).parent / "results" / "activations.json"
DOCS = Path(__file__).parent.parent / "docs" / "kernels.md"
BEGIN, END = "<!-- activation tables: begin -->", "<!-- activation tables: end -->"
SIZES = (LARGEST, Case(544, 960, 129))
CHUNKS = (4096, 8192, 16384)
WEIGHTS: dict[str, torch.dtype | None] = {"int8": torch.int8, "bf16": None}
# What `--attention` offers but for sageattention, which does not run on fake tensors: PyTorch's, and ours in each form.
ATTENTIONS = {"sdpa": EXACT} | {each.name: Attention("hvlite", each, "counted") for each in VARIANTS.values()}
NO_DIFFUSERS = "diffusers is not installed (pip install diffusers)"


@dataclass(frozen=True)
class Scope:
    """What is run, and by what it is counted."""

    title: str
    config: TransformerConfig
    hvlite: Callable[..., Measured]
    diffusers: Callable[..., Measured]

    @property
    def depth(self) -> list[int]:
        """Double and single blocks."""
        return [self.config.mm_double_blocks_depth, self.config.mm_single_blocks_depth]


SCOPES = {
    "step": Scope("A whole step, all 60 blocks", TransformerConfig(), step_peak, diffusers_step_peak),
    "blocks": Scope("A double block, then a single block", FEW_BLOCKS, blocks_peak, diffusers_blocks_peak),
}


def hvlite_rows(
    scope: str,
    sizes: Sequence[Case] = SIZES,
    chunks: Sequence[int] = CHUNKS,
    names: Sequence[str] = tuple(ATTENTIONS),
    weights: Sequence[str] = tuple(WEIGHTS),
) -> Iterator[Row]:
    """Every size, attention, chunk and kind of weights, as a card runs them."""
    for stored in weights:
        with FakeTensorMode(), kernels_on_fakes():
            model = build_transformer(SCOPES[scope].config, torch.bfloat16, WEIGHTS[stored], "w8a8")
            for case in sizes:
                for name in names:
                    for chunk in chunks:
                        found = SCOPES[scope].hvlite(model, case, chunk, ATTENTIONS[name])
                        yield _row(scope, "hvlite", case, found, weights=stored, attention=name, chunk=chunk)


def whole_block_rows(sizes: Sequence[Case] = SIZES) -> Iterator[Row]:
    """hvlite's blocks over all tokens at once, in bf16: what `hvlite bench kernels` compares with on a card."""
    with FakeTensorMode(), kernels_on_fakes():
        model = build_transformer(FEW_BLOCKS, torch.bfloat16)
        for case in sizes:
            yield _row("blocks", "hvlite's blocks whole", case, whole_blocks_peak(model, case))


def diffusers_rows(scope: str, sizes: Sequence[Case] = SIZES) -> Iterator[Row]:
    """Every size: bf16, PyTorch's SDPA. ModuleNotFoundError without diffusers."""
    with FakeTensorMode():
        model = build_diffusers(SCOPES[scope].config, torch.bfloat16)
        for case in sizes:
            yield _row(scope, "diffusers", case, SCOPES[scope].diffusers(model, case))


def _row(
    scope: str,
    maker: str,
    case: Case,
    found: Measured,
    *,
    weights: str = "bf16",
    attention: str = "sdpa",
    chunk: int | None = None,
) -> Row:
    return {
        "scope": scope,
        "maker": maker,
        "size": case.name,
        "tokens": case.tokens,
        "depth": SCOPES[scope].depth,
        "weights": weights,
        "attention": attention,
        "chunk": chunk,
        "peak_bytes": found.nbytes,
        "peak_operator": found.operator,
    }


def count_all(tell: Callable[[Row], None]) -> dict[str, Any]:
    """The whole of results/activations.json; without diffusers its rows are left out and `not_run` says so."""
    peer = _diffusers_version()
    parts: list[Callable[[], Iterator[Row]]] = []
    for scope in SCOPES:
        parts += [] if peer is None else [partial(diffusers_rows, scope)]
        parts += [partial(hvlite_rows, scope)]
    rows: list[Row] = []
    for part in (*parts, whole_block_rows):
        for row in part():
            tell(row)
            rows.append(row)
    missing = [{"maker": "diffusers", "reason": NO_DIFFUSERS}] if peer is None else []
    versions = {"torch": torch.__version__, "diffusers": peer}
    return {"schema": "hvlite-activations", "versions": versions, "rows": rows, "not_run": missing}


def _diffusers_version() -> str | None:
    try:
        return version("diffusers")
    except PackageNotFoundError:
        return None


# The tables of the docs


def docs_text(made: dict[str, Any]) -> str:
    """A table for each scope: attention and weights down, sizes and chunks across; ratios to diffusers in brackets."""
    versions = ", ".join(f"{name} {each}" for name, each in made["versions"].items() if each)
    lines = [f"{versions}; `python -m hvlite.benchmarks.activations` makes these tables.", ""]
    lines += ["GiB, by size and tokens a chunk; in brackets how many times as much diffusers holds."]
    for name, scope in SCOPES.items():
        rows = [row for row in made["rows"] if row["scope"] == name]
        lines += ["", f"**{scope.title}**", "", *markdown([_head(rows), *_whole(rows), *_chunked(rows)])]
    for each in made["not_run"]:
        lines += ["", f"Not run: {each['reason']}."]
    return "\n".join(lines)


def _head(rows: Sequence[Row]) -> list[str]:
    return ["attention", "weights", *(f"{size}, {chunk}" for size, chunk in _columns(rows))]


def _columns(rows: Sequence[Row]) -> list[tuple[str, int]]:
    return list(dict.fromkeys((row["size"], row["chunk"]) for row in rows if row["chunk"]))


def _whole(rows: Sequence[Row]) -> Iterator[list[str]]:
    """Those that know no chunks: a figure a size, in its first column."""
    sizes = [size for size, _ in _columns(rows)]
    firsts = [size if size not in sizes[:index] else "" for index, size in enumerate(sizes)]
    for maker in dict.fromkeys(row["maker"] for row in rows if not row["chunk"]):
        found = {row["size"]: _cell(row, rows) for row in rows if row["maker"] == maker}
        yield [f"{maker}, sdpa, no chunks", "bf16", *(found.get(size, "") for size in firsts)]


def _chunked(rows: Sequence[Row]) -> Iterator[list[str]]:
    """Forms of attention with the same figures share a line."""
    found: dict[tuple[str, str], dict[tuple[str, int], str]] = {}
    for row in (each for each in rows if each["chunk"]):
        found.setdefault((row["attention"], row["weights"]), {})[row["size"], row["chunk"]] = _cell(row, rows)
    lines: dict[tuple[str, ...], list[str]] = {}
    for (attention, weights), cells in found.items():
        lines.setdefault((weights, *(cells[each] for each in _columns(rows))), []).append(attention)
    yield from ([", ".join(names), *cells] for cells, names in lines.items())


def _cell(row: Row, rows: Sequence[Row]) -> str:
    shown = f"{row['peak_bytes'] / 2**30:.2f}"
    for peer in rows if row["maker"] != "diffusers" else ():
        if peer["maker"] == "diffusers" and peer["size"] == row["size"]:
            return f"{shown} ({peer['peak_bytes'] / row['peak_bytes']:.1f}x)"
    return shown


def with_tables(page: str, made: dict[str, Any]) -> str:
    """A page with the tables between its marks made anew."""
    return replaced_between(page, BEGIN, END, docs_text(made))


def _told(row: Row) -> None:
    """A row as a line on the terminal."""
    chunk = "no chunks" if row["chunk"] is None else f"{row['chunk']} a chunk"
    what = f"{row['scope']}, {row['maker']}, {row['size']}, {row['attention']}, {row['weights']}, {chunk}"
    print(f"{row['peak_bytes'] / 2**30:6.2f} GiB  {what}", flush=True)


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    action = parser.add_mutually_exclusive_group(required=True)
    action.add_argument("--out", type=Path, help="count, write this file and print the tables")
    action.add_argument("--docs", action="store_true", help="count nothing, write the tables of the docs")
    action.add_argument("--check", action="store_true", help="count and write nothing, compare")
    chosen = parser.parse_args()
    if chosen.out is not None:
        torch.set_num_threads(1)
        made = count_all(_told)
        write_atomic(chosen.out, (json.dumps(made, indent=1) + "\n").encode())
        print("\n" + docs_text(made))
        return 0
    page = DOCS.read_text(encoding="utf-8")
    tables = with_tables(page, read_json(RESULTS))
    if chosen.check:
        return int(page != tables)
    write_atomic(DOCS, tables.encode())
    return 0


if __name__ == "__main__":
    sys.exit(main())
