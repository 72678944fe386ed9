"""`hvlite quantize`: a checkpoint in, the folder the runtime streams out. Needs no GPU and no model class.

A killed run goes on where it stopped and ends byte-identical; so does one with another number of threads.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch

from ..errors import CheckpointError, ConfigError, DiskError
from ..files import write_atomic
from .fingerprint import fingerprint_files
from .format import FORMAT_VERSION, MANIFEST, PICTURE, REPORT, StoredFile
from .journal import FileRecord
from .locate import ModelFiles, locate
from .lora import Lora, open_loras
from .manifest import manifest_bytes
from .output import OutputFolder
from .pipeline import encode_ahead, make_weight, write_weights
from .plan import CARD_NAME, FilePlan, Sources, Weight, config_json, make_plan
from .plot import draw_report
from .recipe import PARTS, Recipe, make_recipe
from .report import make_report, report_bytes
from .text_source import open_text_encoder, open_text_encoder_2
from .transformer_source import open_transformer
from .vae_source import open_vae
from .writer import Written

ARITHMETIC_VERSION = 1  # of the encoders: a folder made with another one is not gone on with
MAX_WORKERS = 4
SPACE_MARGIN = 1.02


@dataclass(frozen=True)
class QuantizeOptions:
    """What to convert, and how. `parts` empty: all four; `workers` None: one thread a core, at most four."""

    source: Path
    output: Path
    transformer: str = "fp8"
    text_encoder: str = "nf4"
    vae: str = "fp16"
    recipe: Path | None = None
    loras: tuple[str, ...] = ()
    parts: tuple[str, ...] = ()
    dit_weight: Path | None = None
    model_config: Mapping[str, Any] | None = None
    resume: bool = True
    force: bool = False
    workers: int | None = None

    def __post_init__(self) -> None:
        unknown = sorted(set(self.parts) - set(PARTS))
        if unknown:
            raise ConfigError(f"there is no part {unknown[0]!r}; expected some of {', '.join(PARTS)}")
        if self.workers is not None and self.workers < 1:
            raise ConfigError(f"{self.workers} worker threads; expected one or more")


@dataclass(frozen=True)
class Progress:
    """Source bytes handled so far, of all this run has to handle; `file` is at work, done, or was done before."""

    kind: Literal["kept", "weight", "file"]
    file: str
    done_bytes: int
    total_bytes: int
    files_done: int
    files_total: int


@dataclass(frozen=True)
class QuantizeResult:
    """A finished folder: what hvlite.json and report.json say, and how many files this run wrote or found done."""

    output: Path
    manifest: Mapping[str, Any]
    report: Mapping[str, Any]
    files_written: int = 0
    files_kept: int = 0
    already_finished: bool = False


def run_quantize(options: QuantizeOptions, on_progress: Callable[[Progress], None] = lambda _: None) -> QuantizeResult:
    """Convert a checkpoint. Raises ConfigError, CheckpointError (the source), DiskError; finished files are kept.

    An exception raised by `on_progress` ends the run as well, and the same call goes on from there.
    """
    names = {"transformer": options.transformer, "text_encoder": options.text_encoder, "vae": options.vae}
    recipe = make_recipe(names, options.recipe)
    _check_folders(options)
    with ExitStack() as stack:
        files = locate(options.source, dit_weight=options.dit_weight)
        sources = _open_sources(files, options, stack)
        loras = open_loras(options.loras, sources.transformer)
        plan = make_plan(sources, recipe, _card(files, options.source))
        settings = _settings(sources, recipe, loras, plan)
        folder = stack.enter_context(OutputFolder(options.output))
        pool = stack.enter_context(_workers(options.workers))
        manifest = folder.finished(settings, force=options.force)
        if manifest is not None:
            return _already_finished(folder, manifest.files)
        folder.begin(settings, plan, resume=options.resume, pool=pool)
        return _Conversion(folder, plan, sources, loras, settings, on_progress).run(pool)


def _check_folders(options: QuantizeOptions) -> None:
    """Decided before anything is opened: the output must not be the source, inside it, or around it."""
    source, output = options.source.expanduser().resolve(), options.output.expanduser().resolve()
    if source == output or source in output.parents or output in source.parents:
        raise ConfigError(
            f"the output {output} and the source {source} lie in each other", hint="choose another output folder"
        )
    if output.exists() and not output.is_dir():
        raise ConfigError(f"{output} is a file; expected a folder, or a name that is free")


def _open_sources(files: ModelFiles, options: QuantizeOptions, stack: ExitStack) -> Sources:
    if files.layout == "hvlite":
        raise ConfigError(f"{files.root} is quantized already", hint="convert from the checkpoint it was made of")
    wanted = options.parts or PARTS
    sources = Sources()
    if "transformer" in wanted:
        sources.transformer = stack.enter_context(open_transformer(files, config=options.model_config))
    if "text_encoder" in wanted:
        sources.text_encoder = stack.enter_context(open_text_encoder(files))
        sources.tokenizers["tokenizer"] = _required(files.tokenizer, files.root, "tokenizer")
    if "text_encoder_2" in wanted:
        sources.text_encoder_2 = stack.enter_context(open_text_encoder_2(files))
        sources.tokenizers["tokenizer_2"] = _required(files.tokenizer_2, files.root, "tokenizer_2")
    if "vae" in wanted:
        sources.vae = stack.enter_context(open_vae(files))
    return sources


def _required(folder: Path | None, root: Path, name: str) -> Path:
    if folder is None:
        raise CheckpointError(f"{root} has no {name} files", hint="copy them beside the text encoders' weights")
    return folder


def _card(files: ModelFiles, given: Path) -> Path | None:
    folders = (given if given.is_dir() else given.parent, files.root)
    return next((folder / CARD_NAME for folder in folders if (folder / CARD_NAME).is_file()), None)


def _settings(sources: Sources, recipe: Recipe, loras: tuple[Lora, ...], plan: list[FilePlan]) -> dict[str, Any]:
    """All that decides the bytes of the output, as plain JSON and without a path of this machine."""
    parts = [part for part in PARTS if getattr(sources, part) is not None]
    small = {file.path: file.content for file in plan if not file.weights}
    settings = {
        "format_version": FORMAT_VERSION,
        "arithmetic_version": ARITHMETIC_VERSION,
        "recipe": {part: recipe[part].to_json() for part in parts},
        "source": {part: fingerprint_files(sources.of(part).paths) for part in parts},
        "loras": [lora.to_json() for lora in loras],
        "other_files": sha256_of(small),
    }
    normalized: dict[str, Any] = json.loads(json.dumps(settings))
    return normalized


def sha256_of(contents: Mapping[str, bytes]) -> str:
    """One hash of several small files."""
    digest = hashlib.sha256()
    for name, content in contents.items():
        digest.update(f"{name}\0{len(content)}\0".encode() + content)
    return digest.hexdigest()


@contextmanager
def _workers(count: int | None) -> Iterator[ThreadPoolExecutor]:
    """Threads that each run torch on one core. With more a sum would depend on the number of cores."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    pool = ThreadPoolExecutor(count or min(MAX_WORKERS, os.cpu_count() or 1), thread_name_prefix="quantize")
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(before)


def _already_finished(folder: OutputFolder, files: Mapping[str, StoredFile]) -> QuantizeResult:
    """A finished folder is left as it is; what a crash right after its end left behind is removed."""
    for name, file in files.items():
        path = folder.root / name
        if not path.is_file() or path.stat().st_size != file.nbytes:
            raise ConfigError(f"{path} is not what {MANIFEST} says", hint="--force makes the folder again")
    folder.finish()
    manifest = json.loads((folder.root / MANIFEST).read_bytes())
    report = json.loads((folder.root / REPORT).read_bytes())
    return QuantizeResult(folder.root, manifest, report, files_kept=len(files), already_finished=True)


@dataclass
class _Conversion:
    """The files of one run, written in order."""

    folder: OutputFolder
    plan: list[FilePlan]
    sources: Sources
    loras: tuple[Lora, ...]
    settings: Mapping[str, Any]
    on_progress: Callable[[Progress], None]
    done_bytes: int = 0
    files_done: int = field(default=0)

    def run(self, pool: ThreadPoolExecutor) -> QuantizeResult:
        pending = [file for file in self.plan if file.path not in self.folder.records]
        self._check_space(pending)
        kept = len(self.plan) - len(pending)
        self.total_bytes = sum(file.source_bytes for file in pending)
        self.files_done = kept
        if kept:
            self._tell("kept", self.plan[0].path)
        weights = (weight for file in pending for weight in file.weights)
        encoded = encode_ahead(weights, lambda weight: make_weight(weight, self.sources, self.loras), pool)
        for file in pending:
            self._write(file, encoded)
        manifest, report = self._finish()
        return QuantizeResult(self.folder.root, manifest, report, files_written=len(pending), files_kept=kept)

    def _check_space(self, pending: list[FilePlan]) -> None:
        need = int(sum(file.nbytes for file in pending) * SPACE_MARGIN)
        free = shutil.disk_usage(self.folder.root).free
        if free < need:
            raise DiskError(
                f"{self.folder.root} needs {need:,} more bytes; the disk has {free:,} free",
                hint="free some space, or choose a folder on another disk",
            )

    def _write(self, file: FilePlan, encoded: Iterator[Any]) -> None:
        path = self.folder.root / file.path
        if file.weights:
            written, layers = write_weights(path, file, encoded, lambda weight: self._count(file, weight))
        else:
            write_atomic(path, file.content)
            self.done_bytes += len(file.content)
            written, layers = Written(len(file.content), hashlib.sha256(file.content).hexdigest()), []
        self.folder.journal.append(FileRecord(file.path, written.nbytes, written.sha256, tuple(layers)))
        self.files_done += 1
        self._tell("file", file.path)

    def _count(self, file: FilePlan, weight: Weight) -> None:
        self.done_bytes += weight.source_bytes
        self._tell("weight", file.path)

    def _tell(self, kind: Literal["kept", "weight", "file"], file: str) -> None:
        self.on_progress(Progress(kind, file, self.done_bytes, self.total_bytes, self.files_done, len(self.plan)))

    def _finish(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """The report, then hvlite.json, then nothing is left of the run but its result."""
        records = [self.folder.records[file.path] for file in self.plan]
        report = make_report(layer for record in records for layer in record.layers)
        files = {record.path: {"bytes": record.nbytes, "sha256": record.sha256} for record in records}
        for name, content in {REPORT: report_bytes(report), PICTURE: draw_report(report["layers"])}.items():
            write_atomic(self.folder.root / name, content)
            files[name] = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        manifest = self._manifest(files)
        write_atomic(self.folder.root / MANIFEST, manifest_bytes(manifest))
        self.folder.finish()
        return manifest, report

    def _manifest(self, files: Mapping[str, Any]) -> dict[str, Any]:
        transformer = self.sources.transformer
        weights = [weight for file in self.plan for weight in file.weights if weight.choice.scheme.quantized]
        return {
            "format": "hvlite",
            "format_version": FORMAT_VERSION,
            "settings": self.settings,
            "transformer": None if transformer is None else config_json(transformer.config),
            "schemes": {
                part: {weight.name: weight.choice.scheme.name for weight in weights if weight.part == part}
                for part in dict.fromkeys(weight.part for weight in weights)
            },
            "files": files,
        }
