"""What is put through the faults: a command, the folder it works in, and what must hold in there at any moment."""

from __future__ import annotations

import hashlib
import os
import random
import shutil
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from fault_disk import DEADLY, ON, Fault, FaultyDisk, Killed

from hvlite.errors import CheckpointError, DiskError, HvliteError

Tree = dict[str, bytes]
IN_PROCESS = tuple(kind for kind in ON if kind != "sigkill")


class Scenario(Protocol):
    """A command to disturb. `start`: the files it begins with."""

    name: str
    start: Tree

    @property
    def frozen(self) -> Path | None:
        """The folder of the sources, which may only be read."""

    def run(self, folder: Path) -> Any:
        """The command; the same one again after a fault."""

    def broken_rules(self, folder: Path) -> list[str]:
        """What is wrong with the folder, whenever it is looked at."""

    def lost_when_done(self, folder: Path) -> list[str]:
        """What is missing from the folder of a command that has said it is done."""

    def unfinished(self, folder: Path, before: Tree, result: Any) -> list[str]:
        """What is wrong after the command has said that it is done. `before`: what the folder held when it began."""


def read_tree(folder: Path) -> Tree:
    """Every file below a folder by its relative path; folders as names that end in a slash."""
    paths = sorted(folder.rglob("*"))
    return {
        f"{path.relative_to(folder).as_posix()}{'/' if path.is_dir() else ''}": b""
        if path.is_dir()
        else path.read_bytes()
        for path in paths
    }


def write_tree(folder: Path, tree: Tree) -> None:
    for name, content in tree.items():
        path = folder / name
        if name.endswith("/"):
            path.mkdir(parents=True, exist_ok=True)
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)


def differences(tree: Tree, wanted: Tree) -> list[str]:
    """One line for each file that is missing, too many, or another one."""
    lines = [f"{name} is {'missing' if name in wanted else 'too many'}" for name in sorted(tree.keys() ^ wanted.keys())]
    return lines + [
        f"{name} has other bytes" for name in sorted(tree.keys() & wanted.keys()) if tree[name] != wanted[name]
    ]


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@dataclass
class Counts:
    """How many faults happened, of each kind, and what they broke."""

    points: dict[str, int] = field(default_factory=dict)
    violations: list[str] = field(default_factory=list)

    @property
    def total(self) -> int:
        return sum(self.points.values())

    def add(self, kind: str, violations: list[str]) -> None:
        self.points[kind] = self.points.get(kind, 0) + 1
        self.violations += violations

    def merge(self, other: Counts) -> None:
        for kind, count in other.points.items():
            self.points[kind] = self.points.get(kind, 0) + count
        self.violations += other.violations

    def __str__(self) -> str:
        kinds = ", ".join(f"{kind} {count}" for kind, count in sorted(self.points.items()))
        return f"{self.total:,} fault points ({kinds}), {len(self.violations)} violations"


def fresh(scenario: Scenario, base: Path) -> Path:
    """The folder as the scenario begins."""
    return write_fresh(base, scenario.start)


def write_fresh(base: Path, tree: Tree) -> Path:
    """A folder that holds just these files."""
    shutil.rmtree(base, ignore_errors=True)
    base.mkdir(parents=True)
    write_tree(base, tree)
    return base


def record(scenario: Scenario, base: Path) -> tuple[FaultyDisk, dict[str, int]]:
    """An undisturbed run with all its calls, and the numbers that the files had when it began."""
    folder = fresh(scenario, base)
    disk = FaultyDisk(base, frozen=scenario.frozen)
    inodes = dict(disk.inodes)
    with disk:
        scenario.run(folder)
    return disk, inodes


def broken_after(scenario: Scenario, base: Path, *, done: bool) -> list[str]:
    """What is wrong after a crash; if nothing, what is after the next run. `done`: the command had ended well."""
    wrong = scenario.broken_rules(base)
    if done:
        wrong += [f"done, but {line}" for line in scenario.lost_when_done(base)]
    return wrong or recover(scenario, base, base)


def disturb(scenario: Scenario, base: Path, fault: Fault) -> tuple[bool, list[str]]:
    """Run into one fault, then run again. Whether the fault happened, and what went wrong."""
    folder = fresh(scenario, base)
    before = read_tree(folder)
    with FaultyDisk(base, fault, scenario.frozen) as disk:
        outcome, result = _outcome(scenario, folder)
    if disk.hit is None:
        return False, []
    where = f"{scenario.name}: {fault.kind} at call {fault.at} ({disk.hit.name} {Path(disk.hit.path).name})"
    wrong = [*_judge(outcome, fault, disk), *scenario.broken_rules(folder)]
    if outcome is None:
        wrong += scenario.unfinished(folder, before, result)
    wrong += [f"the source was opened for writing: {path}" for path in disk.trespasses]
    if not wrong:
        wrong = recover(scenario, base, folder)
    return True, [f"{where}: {line}" for line in wrong]


def _outcome(scenario: Scenario, folder: Path) -> tuple[BaseException | None, Any]:
    try:
        return None, scenario.run(folder)
    except BaseException as error:  # noqa: BLE001 - what it is, is judged
        return error, None


def _judge(outcome: BaseException | None, fault: Fault, disk: FaultyDisk) -> list[str]:
    """Whether the command ended as it must after this fault."""
    if isinstance(outcome, HvliteError) and fault.kind == "eio_read":
        return [] if isinstance(outcome, DiskError | CheckpointError) else [f"a read error became {outcome!r}"]
    if isinstance(outcome, DiskError):
        return [] if disk.root in outcome.message else [f"the message names no path: {outcome.message}"]
    if isinstance(outcome, Killed):
        return [] if fault.kind in DEADLY else ["died of an error"]
    if outcome is not None:
        return [f"raised {outcome!r}, which is no DiskError"]
    if fault.kind in DEADLY:
        return ["went on after its death"]
    return [] if _may_be_ignored(fault, disk) else ["went on as if nothing had happened"]


def _may_be_ignored(fault: Fault, disk: FaultyDisk) -> bool:
    """What loses nothing: a short write, a folder that is there although its mkdir failed, an empty one that stays,
    a lock or a folder that was not closed well. (What is left behind is looked at apart.)"""
    assert disk.hit is not None
    locks = {call.inode for call in disk.calls if call.name == "lock"}
    data = {call.inode for call in disk.calls if call.data} - locks
    return (
        fault.kind == "short"
        or (fault.kind == "eio_done" and disk.hit.name == "mkdir")
        or disk.hit.name == "rmdir"
        or (disk.hit.name == "close" and disk.hit.inode not in data)
    )


def recover(scenario: Scenario, base: Path, folder: Path) -> list[str]:
    """The same command again, on a disk that works."""
    before = read_tree(folder)
    with FaultyDisk(base, frozen=scenario.frozen):
        outcome, result = _outcome(scenario, folder)
    if outcome is not None:
        return [f"the next run failed: {outcome!r}"]
    return [*scenario.broken_rules(folder), *scenario.unfinished(folder, before, result)]


def fault_points(scenario: Scenario, base: Path, kinds: tuple[str, ...]) -> list[Fault]:
    """Every kind of fault at every call of the command that it can happen to."""
    undisturbed, _ = record(scenario, base)
    changes = [
        Fault(kind, index) for kind in kinds for index, call in enumerate(undisturbed.calls) if call.name in ON[kind]
    ]
    return changes + [Fault(kind, index) for kind in kinds if "read" in ON[kind] for index in range(undisturbed.reads)]


def sweep(
    scenario: Scenario,
    base: Path,
    kinds: tuple[str, ...] = IN_PROCESS,
    *,
    most: int | None = None,
    until: str | None = None,
    disturb: Callable[[Scenario, Path, Fault], tuple[bool, list[str]]] = disturb,
    seed: int = 0,
) -> Counts:
    """Disturb at every fault point, or at `most` of them drawn by `seed`; `until` stops at a violation that says so."""
    points = fault_points(scenario, base, kinds)
    random.Random(seed).shuffle(points)
    counts = Counts()
    for fault in points[:most]:
        happened, wrong = disturb(scenario, base, fault)
        if happened:
            counts.add(fault.kind, wrong)
        if until and any(until in line for line in counts.violations):
            break
    return counts


def quiet_fork() -> int:
    """fork; newer Pythons warn about the threads of libraries, of which none is at work."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return os.fork()


def disturb_for_real(scenario: Scenario, base: Path, fault: Fault) -> tuple[bool, list[str]]:
    """As `disturb`, but a process of its own runs into the fault, and is really killed: fault.kind is "sigkill"."""
    folder = fresh(scenario, base)
    child = quiet_fork()
    if child == 0:
        try:
            with FaultyDisk(base, fault, scenario.frozen):
                scenario.run(folder)
        finally:
            os._exit(1)
    _, status = os.waitpid(child, 0)
    if not os.WIFSIGNALED(status):
        return False, [f"{scenario.name}: was not killed at call {fault.at}"]
    wrong = scenario.broken_rules(folder) or recover(scenario, base, folder)
    return True, [f"{scenario.name}: killed at call {fault.at}: {line}" for line in wrong]
