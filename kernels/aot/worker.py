"""Compiles kernels ahead of time and prints one JSON row per case; `table.compile_table` starts it.

    python -m hvlite.kernels.aot.worker [--capability 86] [--only attention] [--share 0/2]

It is a process of its own because Triton's interpreter, which tests use, and Triton's compiler exclude each other in
one process. What was measured is kept by a hash of everything it depends on; it is judged anew each time.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import triton

from ...files import write_atomic
from ..launch import CAPABILITIES, CompileCase
from . import compile as compiler
from . import sass
from .cases import MODULES, find_cases
from .compile import Compiled, compile_case
from .rows import failed_row, row_of


def key_of(case: CompileCase) -> str:
    """A hash of what the measurement depends on: the kernel and what it calls, types, launch, card, Triton, readers."""
    readers = b"".join(Path(file).read_bytes() for file in (str(compiler.__file__), str(sass.__file__)))
    values = (
        case.kernel.cache_key,
        sorted(case.signature.items()),
        sorted((name, repr(value)) for name, value in case.constexprs.items()),
        sorted(case.unaligned),
        (case.capability, case.launch.num_warps, case.launch.num_stages, triton.__version__),
    )
    return hashlib.sha256(repr(values).encode() + readers).hexdigest()[:32]


def measured(case: CompileCase, cache: Path | None) -> Compiled:
    """`compile_case`, or what it gave the last time."""
    kept = None if cache is None else cache / f"{key_of(case)}.json"
    if kept is not None and kept.exists():
        fields = json.loads(kept.read_text(encoding="utf-8"))
        loop = sass.HotLoop.from_json(fields.pop("loop"))
        return Compiled(**{**fields, "products": tuple(fields["products"])}, loop=loop)
    made = compile_case(case)
    if kept is not None:
        write_atomic(kept, json.dumps(asdict(made)).encode())
    return made


def rows(cases: Sequence[CompileCase], cache: Path | None) -> Iterator[dict[str, Any]]:
    """One row per case, in order. An error of the compiler is a finding about its case."""
    for case in cases:
        try:
            yield row_of(case, measured(case, cache))
        except Exception as error:  # noqa: BLE001  Triton's compiler raises classes of many kinds
            yield failed_row(case, error)


def main(arguments: Sequence[str]) -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--capability", type=int, action="append", choices=CAPABILITIES)
    parser.add_argument("--only", default="", help="cases whose name contains this")
    parser.add_argument("--module", action="append", help="instead of all modules with kernels")
    parser.add_argument("--share", default="0/1", help="I/N: every Nth case, from the Ith on")
    parser.add_argument("--cache", type=Path, help="a folder to keep measurements in")
    chosen = parser.parse_args(arguments)
    first, step = (int(part) for part in chosen.share.split("/"))
    found = find_cases(chosen.module or MODULES, chosen.capability or CAPABILITIES)
    cases = [case for case in found if chosen.only in case.name]
    for index, row in zip(range(first, len(cases), step), rows(cases[first::step], chosen.cache), strict=True):
        sys.stdout.write(json.dumps({"index": index, **row}) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main(sys.argv[1:])
