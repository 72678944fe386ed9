"""What a run of `hvlite bench` found, as values and as one JSON file with a versioned schema. Imports no torch."""

from __future__ import annotations

import json
import math
import types
import typing
from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any

from ..errors import CheckpointError, HvliteError
from ..files import read_json, write_atomic

SCHEMA = "hvlite-bench"
SCHEMA_VERSION = 1
Plain = str | int | float | bool | None


@dataclass(frozen=True, kw_only=True)
class Seconds:
    """Times of the same work, done `runs` times after a warm-up."""

    median: float
    least: float
    most: float
    runs: int


@dataclass(frozen=True, kw_only=True)
class Peaks:
    """Most memory at one time. None: not there to be measured (a CPU has no device memory) or not told.

    `allocated_bytes`, `reserved_bytes`: torch's allocator. `process_bytes`: this process as the driver counts it, with
    its context and libraries. `used_bytes`: of the whole card, other programs included. `rss_bytes`: the host's.
    `pinned_bytes`: page-locked by hvlite.
    """

    allocated_bytes: int | None = None
    reserved_bytes: int | None = None
    process_bytes: int | None = None
    used_bytes: int | None = None
    rss_bytes: int | None = None
    pinned_bytes: int | None = None


@dataclass(frozen=True, kw_only=True)
class Result:
    """One case. `gate`: what was found right before anything was timed. `values`: numbers whose name has their unit."""

    part: str
    case: str
    gate: str
    seconds: Seconds | None = None
    peaks: Peaks | None = None
    streamed_bytes: int | None = None
    values: dict[str, Plain] = field(default_factory=dict)
    settings: dict[str, Plain] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Sample:
    """A moment of a run: memory and, where the driver tells, power and clock."""

    at_s: float
    stage: str
    rss_bytes: int | None = None
    allocated_bytes: int | None = None
    process_bytes: int | None = None
    power_w: float | None = None
    clock_mhz: float | None = None


@dataclass(frozen=True, kw_only=True)
class Timeline:
    """Memory over the time of one case."""

    part: str
    case: str
    samples: tuple[Sample, ...]


@dataclass(frozen=True, kw_only=True)
class NotRun:
    """A part or a case that was left out, and why. `wrong`: its gate did not hold."""

    part: str
    reason: str
    wrong: bool = False


@dataclass(frozen=True, kw_only=True)
class BenchFile:
    """Everything of one run. `machine`: device, driver, host; `versions` of what it stands on; `commit` where known."""

    made: str
    machine: dict[str, Plain]
    versions: dict[str, str]
    commit: str | None = None
    settings: dict[str, Plain] = field(default_factory=dict)
    results: tuple[Result, ...] = ()
    timelines: tuple[Timeline, ...] = ()
    not_run: tuple[NotRun, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Plain JSON, the schema's name and version first."""
        return {"schema": SCHEMA, "schema_version": SCHEMA_VERSION, **asdict(self)}

    def require_right(self) -> None:
        """Raises GateError where a gate did not hold: the rest was measured all the same."""
        wrong = [f"{each.part}: {each.reason}" for each in self.not_run if each.wrong]
        if wrong:
            raise GateError("; ".join(wrong), hint="please report it, with the file of results")

    def part(self, name: str) -> list[Result]:
        """The results of one part, in the order they were made."""
        return [result for result in self.results if result.part == name]


def write_results(path: Path, made: BenchFile) -> None:
    """Write the file, whole or not at all. Raises DiskError."""
    write_atomic(path, (json.dumps(made.to_json(), indent=1, allow_nan=False) + "\n").encode())


def read_results(path: Path | str) -> BenchFile:
    """A file of results, every field checked. CheckpointError naming the field that is wrong."""
    return parse_results(read_json(path), str(path))


def parse_results(value: Any, where: str) -> BenchFile:
    """The same from JSON that was read already."""
    if not isinstance(value, dict) or value.get("schema") != SCHEMA:
        raise CheckpointError(f"{where} is not a file of hvlite bench", hint="hvlite bench --output FILE makes one")
    if value.get("schema_version") != SCHEMA_VERSION:
        raise CheckpointError(
            f"{where} has schema version {value.get('schema_version')!r}; this hvlite reads {SCHEMA_VERSION}",
            hint="run hvlite bench again, or use the hvlite that made the file",
        )
    rest = {name: entry for name, entry in value.items() if name not in ("schema", "schema_version")}
    found = _read(BenchFile, rest, where)
    assert isinstance(found, BenchFile)
    return found


def check_gate(passed: bool, what: str) -> str:
    """The gate of a result, `what`; where it does not hold, nothing is timed. Raises GateError."""
    if not passed:
        raise GateError(f"a benchmark's gate does not hold: {what}", hint="please report it, with `hvlite --version`")
    return what


class GateError(HvliteError):
    """What was to be measured computes something wrong: its speed is worth nothing."""


def _read(kind: Any, value: Any, where: str) -> Any:
    """`value` as `kind`: a dataclass, tuple[X, ...], dict[str, X], a union or a plain type."""
    if is_dataclass(kind):
        return _read_dataclass(kind, value, where)
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is tuple:
        _expect(isinstance(value, list), where, "a list", value)
        return tuple(_read(arguments[0], each, f"{where}[{index}]") for index, each in enumerate(value))
    if origin is dict:
        _expect(isinstance(value, dict), where, "an object", value)
        return {name: _read(arguments[1], each, f"{where}.{name}") for name, each in value.items()}
    if origin in (typing.Union, types.UnionType):
        return _read_union(arguments, value, where)
    _expect(_is_plain(kind, value), where, kind.__name__, value)
    return float(value) if kind is float else value


def _read_union(kinds: tuple[Any, ...], value: Any, where: str) -> Any:
    structured = [kind for kind in kinds if is_dataclass(kind)]
    if structured and value is not None:
        return _read(structured[0], value, where)
    _expect(any(_is_plain(kind, value) for kind in kinds), where, " or ".join(_name(kind) for kind in kinds), value)
    return value


def _read_dataclass(kind: Any, value: Any, where: str) -> Any:
    _expect(isinstance(value, dict), where, "an object", value)
    hints = typing.get_type_hints(kind)
    known = {each.name: each for each in fields(kind)}
    strange = value.keys() - known.keys()
    _expect(not strange, where, f"the fields of {kind.__name__}", sorted(strange))
    missing = [name for name, each in known.items() if _is_required(each) and name not in value]
    _expect(not missing, where, f"{', '.join(missing)} as well", sorted(value))
    return kind(**{name: _read(hints[name], each, f"{where}.{name}") for name, each in value.items()})


def _is_required(each: Any) -> bool:
    return each.default is MISSING and each.default_factory is MISSING


def _is_plain(kind: Any, value: Any) -> bool:
    if kind in (None, type(None)):
        return value is None
    if kind is float:
        return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if kind is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, kind)


def _name(kind: Any) -> str:
    return "null" if kind is type(None) else str(kind.__name__)


def _expect(condition: bool, where: str, wanted: str, found: Any) -> None:
    if not condition:
        raise CheckpointError(f"{where}: expected {wanted}, found {found!r:.100}")


def plain_row(row: Mapping[str, Any]) -> dict[str, Plain]:
    """A row of numbers as `Result.values` holds them: what is not plain becomes text, what is not finite null."""
    return {name: _plain_value(value) for name, value in row.items()}


def _plain_value(value: Any) -> Plain:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if value is None or isinstance(value, str | int | float | bool) else str(value)
