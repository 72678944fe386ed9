"""`hvlite quantize` as something to disturb: a tiny transformer, converted into a folder in several ways."""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from fault_disk import Fault, FaultyDisk, Killed
from safetensors.torch import save_file
from scenarios import Tree, differences, fresh, read_tree, sha256

from hvlite.quantize import convert
from hvlite.quantize.architecture import TransformerConfig
from hvlite.quantize.convert import QuantizeOptions, QuantizeResult, run_quantize
from hvlite.quantize.manifest import manifest_bytes
from hvlite.quantize.readers.shapes import expected_transformer_shapes

TINY = TransformerConfig(
    hidden_size=16,
    heads_num=1,
    mm_double_blocks_depth=1,
    mm_single_blocks_depth=1,
    rope_dim_list=(4, 6, 6),
    text_states_dim=8,
    text_states_dim_2=8,
    refiner_depth=1,
    guidance_embed=False,
    mlp_width_ratio=1.0,
)
LATE = ("report.json", "report.png", "hvlite.json")  # made at the end; not in the journal


def make_checkpoint(folder: Path, seed: int = 1) -> Path:
    """A random transformer of 70 tensors under their official names, in one file."""
    folder.mkdir(parents=True)
    random = torch.Generator().manual_seed(seed)
    shapes = expected_transformer_shapes(TINY)
    state = {name: torch.randn(shape, generator=random).to(torch.bfloat16) for name, shape in shapes.items()}
    path = folder / "tiny.safetensors"
    save_file(state, path)
    return path


def convert_options(source: Path, folder: Path, **options: Any) -> QuantizeOptions:
    return QuantizeOptions(source=source, output=folder / "out", **{"parts": ("transformer",), "workers": 1, **options})


class InOrder(Executor):
    """Does the work when it is handed in: threads change no byte, and cost more than the work on so small a model."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as error:  # noqa: BLE001 - the future carries it
            future.set_exception(error)
        return future


with_threads = convert._workers


@contextmanager
def without_threads(_: int | None = None) -> Iterator[Executor]:
    """In place of `convert._workers`."""
    yield InOrder()


def make_it_fast(patch: pytest.MonkeyPatch) -> None:
    """No threads, and no picture drawn: neither touches the disk, and they take longer than all the rest."""
    patch.setattr(convert, "_workers", without_threads)
    patch.setattr(convert, "draw_report", lambda layers: b"\x89PNG of " + str(len(layers)).encode())


def journal_lines(content: bytes) -> list[dict[str, Any]]:
    """The lines of a journal that count: up to the first that is damaged. Written apart from the real reader."""
    lines: list[dict[str, Any]] = []
    for raw in content.split(b"\n")[:-1]:
        try:
            value = json.loads(raw)
            crc = value.pop("crc")
        except (ValueError, KeyError, AttributeError):
            break
        if zlib.crc32(json.dumps(value, separators=(",", ":")).encode()) != crc:
            break
        lines.append(value)
    return lines


@dataclass
class Conversion:
    """One way to convert: what the folder holds at first, the options, and the tree it must end with.

    `older`: the tree of a finished folder that is replaced. `damaged`: files that were damaged before the run began.
    """

    name: str
    source: Path
    wanted: Tree
    options: dict[str, Any] = field(default_factory=dict)
    start: Tree = field(default_factory=dict)
    older: Tree = field(default_factory=dict)
    damaged: tuple[str, ...] = ()

    @property
    def frozen(self) -> Path:
        return self.source.parent

    def run(self, folder: Path) -> QuantizeResult:
        return run_quantize(convert_options(self.source, folder, **self.options))

    def broken_rules(self, folder: Path) -> list[str]:
        tree = read_tree(folder / "out") if (folder / "out").exists() else {}
        return [
            *self._incomplete_files(tree),
            *self._bad_manifest(tree),
            *_bad_parts(tree, self.wanted),
            *self._bad_journal(tree),
        ]

    def _incomplete_files(self, tree: Tree) -> list[str]:
        """A file with its final name is complete."""
        names = [name for name in tree if not name.endswith(("/", ".part")) and not name.startswith(".quantize/")]
        return [
            f"{name} is neither the old file nor the new one"
            for name in names
            if name not in self.damaged and tree[name] not in (self.wanted.get(name), self.older.get(name))
        ]

    def _bad_manifest(self, tree: Tree) -> list[str]:
        """Where there is an hvlite.json, all it names is there."""
        if "hvlite.json" not in tree:
            return []
        try:
            files = json.loads(tree["hvlite.json"])["files"]
        except ValueError:
            return ["hvlite.json is torn"]
        return [
            f"hvlite.json names {name}, which is {'another file' if name in tree else 'missing'}"
            for name, said in files.items()
            if name not in tree or said != {"bytes": len(tree[name]), "sha256": sha256(tree[name])}
        ]

    def _bad_journal(self, tree: Tree) -> list[str]:
        """What the journal says is finished, is (an older run's journal goes after its files)."""
        older = {sha256(content) for content in self.older.values()}
        lines = journal_lines(tree.get(".quantize/journal.jsonl", b""))[1:]
        return [
            f"the journal names {line['file']} too early"
            for line in lines
            if line["file"] not in self.damaged and line["sha256"] not in {sha256(tree.get(line["file"], b"")), *older}
        ]

    def lost_when_done(self, folder: Path) -> list[str]:
        return differences(read_tree(folder / "out"), self.wanted)

    def unfinished(self, folder: Path, before: Tree, result: QuantizeResult) -> list[str]:
        wrong = differences(read_tree(folder / "out"), self.wanted)
        present = [
            name
            for name in self.wanted
            if not name.endswith("/") and name not in LATE and before.get(f"out/{name}") == self.wanted[name]
        ]
        if self.options.get("resume", True) and not self.older and len(present) - result.files_kept > 1:
            wrong.append(f"of {len(present)} finished files {result.files_kept} were kept")
        return wrong


def _bad_parts(tree: Tree, wanted: Tree) -> list[str]:
    """At most one file is under way, and no reader takes it for weights before it is complete."""
    parts = [name for name in tree if name.endswith(".part")]
    wrong = [f"{len(parts)} .part files"] if len(parts) > 1 else []
    for name in parts:
        content = tree[name]
        is_weights = content[8:9] == b"{"
        if is_weights and content[:8] != bytes(8) and content not in wanted.values():
            wrong.append(f"{name} is incomplete, but has its length field")
    return wrong


def finished_tree(source: Path, folder: Path, **options: Any) -> Tree:
    """What an undisturbed run makes."""
    folder.mkdir(parents=True)
    run_quantize(convert_options(source, folder, **options))
    return read_tree(folder / "out")


class _Stop(Exception):
    """Ends a conversion from its progress callback."""


def stopped_tree(source: Path, folder: Path, files: int, **options: Any) -> Tree:
    """What a run leaves that was stopped after so many files."""

    def stop(progress: convert.Progress) -> None:
        if progress.kind == "file" and progress.files_done >= files:
            raise _Stop

    folder.mkdir(parents=True)
    try:
        run_quantize(convert_options(source, folder, **options), stop)
    except _Stop:
        return read_tree(folder)
    raise AssertionError("the conversion was not stopped")


def planned_files(tree: Tree) -> int:
    """How many files a conversion notes in its journal."""
    return sum(not name.endswith("/") and name not in LATE for name in tree)


def with_another_part(tree: Tree) -> Tree:
    """A finished tree that also has a file which the next conversion does not make."""
    content = b"{}\n"
    manifest = json.loads(tree["hvlite.json"])
    manifest["files"]["vae/config.json"] = {"bytes": len(content), "sha256": sha256(content)}
    return {**tree, "hvlite.json": manifest_bytes(manifest), "vae/": b"", "vae/config.json": content}


def below_out(tree: Tree) -> Tree:
    return {"out/": b"", **{f"out/{name}": content for name, content in tree.items()}}


def all_conversions(work: Path) -> dict[str, Conversion]:
    """The ways that are disturbed: from nothing, after a crash, over a finished folder, and anew."""
    source = make_checkpoint(work / "source")
    fp8 = finished_tree(source, work / "fp8")
    int8 = with_another_part(finished_tree(source, work / "int8", transformer="int8"))
    stopped = stopped_tree(source, work / "stopped", 3)
    damaged = "out/transformer/outer.safetensors"
    crashed = {
        **stopped,
        damaged: b"\xff" + stopped[damaged][1:],
        "out/transformer/.0123456789abcdef.part": bytes(8) + b'{"half',
    }
    crashed["out/.quantize/journal.jsonl"] += b'{"file":"transformer/mod'
    other = stopped_tree(source, work / "other", 4, transformer="int8")
    older = {name.removeprefix("out/"): content for name, content in other.items()}
    return {
        "new": Conversion("new", source, fp8),
        "resumed": Conversion("resumed", source, fp8, start=crashed, damaged=(damaged.removeprefix("out/"),)),
        "replaced": Conversion("replaced", source, fp8, {"force": True}, below_out(int8), older=int8),
        "anew": Conversion("anew", source, fp8, {"resume": False}, other, older=older),
    }


def crashed_at(conversion: Conversion, base: Path, index: int) -> Conversion:
    """The conversion, begun with what a crash at this call leaves."""
    folder = fresh(conversion, base)
    with FaultyDisk(base, Fault("kill", index)), suppress(Killed):
        conversion.run(folder)
    return replace(conversion, name=f"{conversion.name} after a crash at {index}", start=read_tree(folder))
