"""How long a conversion takes against copying and hashing the same bytes, and how much memory it needs.

    python -m hvlite.benchmarks.bench_quantize SOURCE WORK_FOLDER --part transformer

Both run in processes of their own, one after the other, with the source out of the page cache. The copy is the best
this machine does with two threads: one reads and writes, the other hashes; like the conversion it ends with an fsync.
Prints a JSON object. The copy is removed before the conversion starts, so the disk holds the source and one result.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch

from ..quantize.architecture import TransformerConfig
from .make_full_size import RandomWeights, make_transformer
from .results import Peaks, Result, check_gate, plain_row
from .suite import BenchOptions
from .timing import summarise
from .watch import host_peak_bytes

CHUNK_BYTES = 16 << 20
PART = "quantize"
# Layers of half the real width: 0.65 GB in bf16, so that it takes seconds and not the disk of the whole model.
SOURCE = TransformerConfig(hidden_size=1536, heads_num=12, mm_double_blocks_depth=2, mm_single_blocks_depth=2)
SCHEMES = ("fp8", "int8")


def run(options: BenchOptions) -> Iterator[Result]:
    """A random transformer converted, against copying and hashing its bytes."""
    source, work = options.work / "source", options.work / "quantize"
    make_transformer(source, SOURCE, RandomWeights())
    for scheme in SCHEMES:
        if options.seconds_left <= 0:
            options.skip(PART, f"{scheme}: no time was left")
            continue
        row = measure(source, work, "transformer", scheme)
        runs = row.pop("runs")
        yield Result(
            part=PART,
            case=f"transformer to {scheme}",
            gate=check_gate(_is_right(work / "out"), "every size, hash and scale of the result verified"),
            seconds=summarise([each["seconds"] for each in runs["convert"]]),
            peaks=Peaks(rss_bytes=row.pop("peak_rss_bytes")),
            values={
                "copy_and_hash_s": row["copy_and_hash_s"],
                "to_copy_ratio": row["ratio"],
                **plain_row({name: row[name] for name in ("source_bytes", "output_bytes")}),
            },
            settings={"scheme": scheme},
        )


def _is_right(folder: Path) -> bool:
    from ..quantize.verify import run_verify

    return run_verify(folder).ok


def measure(source: Path, work: Path, part: str, transformer: str = "fp8", repeats: int = 1) -> dict[str, Any]:
    """Seconds and peak resident bytes of a copy and of a conversion of one part."""
    files = weight_files(source, part)
    nbytes = sum(path.stat().st_size for path in files)
    copies, conversions = [], []
    for _ in range(repeats):
        copies.append(_child(["copy", *map(str, files), str(work / "copy")], files))
        shutil.rmtree(work / "copy")
        shutil.rmtree(work / "out", ignore_errors=True)
        command = ["quantize", str(source), str(work / "out"), part, transformer]
        conversions.append(_child(command, files))
    copy_s, convert_s = (sorted(run["seconds"] for run in runs)[repeats // 2] for runs in (copies, conversions))
    return {
        "part": part,
        "scheme": transformer if part == "transformer" else "default",
        "source_bytes": nbytes,
        "output_bytes": sum(path.stat().st_size for path in (work / "out").rglob("*") if path.is_file()),
        "copy_and_hash_s": round(copy_s, 2),
        "convert_s": round(convert_s, 2),
        "ratio": round(convert_s / copy_s, 3),
        "peak_rss_bytes": max(run["peak_rss_bytes"] for run in conversions),
        "runs": {"copy": copies, "convert": conversions},
        "cpu": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "torch": torch.__version__,
    }


def weight_files(source: Path, part: str) -> list[Path]:
    """The files of a part's weights."""
    from ..quantize.readers.locate import locate
    from ..quantize.readers.parts import find_part, open_weights

    with_part: Any = part
    file = open_weights(find_part(locate(source), with_part))
    paths = list(file.paths)
    file.close()
    return paths


def _child(arguments: list[str], sources: Iterable[Path]) -> dict[str, Any]:
    """Run one measured step in a process of its own, with the sources not in memory."""
    os.sync()
    for path in sources:
        fd = os.open(path, os.O_RDONLY)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(fd)
    command = [sys.executable, "-m", "hvlite.benchmarks.bench_quantize", "--step", *arguments]
    run = subprocess.run(command, check=True, capture_output=True, text=True)
    result: dict[str, Any] = json.loads(run.stdout.splitlines()[-1])
    return result


def copy_and_hash(paths: list[Path], target: Path) -> None:
    """Copy files; a second thread hashes each piece while the next one is read and written."""
    target.mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(1) as pool:
        for path in paths:
            digest, pending = hashlib.sha256(), None
            with path.open("rb", buffering=0) as source, (target / path.name).open("wb", buffering=0) as out:
                while piece := source.read(CHUNK_BYTES):
                    if pending:
                        pending.result()
                    pending = pool.submit(digest.update, piece)
                    out.write(piece)
                os.fsync(out.fileno())


def _step(arguments: list[str]) -> None:
    """The measured work of a child process, without its start."""
    began = time.perf_counter()
    if arguments[0] == "copy":
        copy_and_hash([Path(path) for path in arguments[1:-1]], Path(arguments[-1]))
    else:
        from ..quantize.convert import QuantizeOptions, run_quantize

        source, output, part, transformer = arguments[1:]
        run_quantize(QuantizeOptions(Path(source), Path(output), transformer=transformer, parts=(part,)))
    seconds = time.perf_counter() - began
    peak = host_peak_bytes()
    print(json.dumps({"seconds": round(seconds, 3), "peak_rss_bytes": peak}))


def main() -> None:
    """Command line."""
    if sys.argv[1:2] == ["--step"]:
        _step(sys.argv[2:])
        return
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("source", type=Path)
    parser.add_argument("work", type=Path)
    parser.add_argument("--part", default="transformer")
    parser.add_argument("--transformer", default="fp8")
    parser.add_argument("--repeats", type=int, default=1)
    arguments = parser.parse_args()
    result = measure(arguments.source, arguments.work, arguments.part, arguments.transformer, arguments.repeats)
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
