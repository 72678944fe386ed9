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
from typing import Any, Literal

import torch

from ..errors import ConfigError, DiskError
from ..files import no_empty_folders, write_atomic
from .format import FORMAT_VERSION, MANIFEST, PICTURE, REPORT, StoredFile
from .inputs import check_folders, find_card, make_settings, open_sources
from .journal import FileRecord
from .lora import Lora, open_loras
from .manifest import manifest_bytes
from .options import Progress, QuantizeOptions, QuantizeResult
from .output import OutputFolder
from .pipeline import encode_ahead, make_weight, write_weights
from .plan import FilePlan, Sources, Weight, config_json, make_plan
from .plot import draw_report
from .readers.locate import locate
from .recipe import make_recipe
from .report import make_report, report_bytes
from .writer import Written

__all__ = ["Progress", "QuantizeOptions", "QuantizeResult", "run_quantize"]

MAX_WORKERS = 4
SPACE_MARGIN = 1.02


def run_quantize(options: QuantizeOptions, on_progress: Callable[[Progress], None] = lambda _: None) -> QuantizeResult:
    """Convert a checkpoint. Raises ConfigError, CheckpointError (the source), DiskError; finished files are kept.

    An exception raised by `on_progress` ends the run as well, and the same call goes on from there.
    """
    names = {"transformer": options.transformer, "text_encoder": options.text_encoder, "vae": options.vae}
    recipe = make_recipe(names, options.recipe)
    check_folders(options)
    with ExitStack() as stack:
        files = locate(options.source, dit_weight=options.dit_weight)
        sources = open_sources(files, options, stack)
        loras = open_loras(options.loras, sources.transformer)
        for lora in loras:
            stack.callback(lora.close)
        plan = make_plan(sources, recipe, find_card(files, options.source))
        settings = make_settings(sources, recipe, loras, plan)
        stack.enter_context(no_empty_folders(options.output))
        folder = stack.enter_context(OutputFolder(options.output))
        pool = stack.enter_context(_workers(options.workers))
        manifest = folder.finished(settings, force=options.force)
        if manifest is not None:
            return _already_finished(folder, manifest.files)
        folder.begin(settings, plan, resume=options.resume, pool=pool)
        return _Conversion(folder, plan, sources, loras, settings, on_progress).run(pool)


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
