"""What a disk may hold after the power went away: every prefix of the calls, with any part of what was not synced.

The model is the strictest reading of POSIX: bytes are on disk after the file's fsync, names after their folder's fsync;
until then each name change is there or not, whatever came before it, and the bytes are old, new, zeros or cut.
A rename is one change: never neither name, never half.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from fault_disk import Call, FaultyDisk
from scenarios import Counts, Scenario, Tree, broken_after, record, write_fresh

SECTOR_BYTES = 64  # smaller than any disk's, so that small files are torn too
SECTOR_DRAWS = 6
MOST_SUBSETS = 16
MOST_CONTENTS = 40


@dataclass
class _File:
    """Bytes that are on disk, and the writes and truncations that are not."""

    synced: bytes = b""
    pending: list[Call] = field(default_factory=list)

    def contents(self, draw: random.Random) -> list[bytes]:
        """What the file may hold, the same thing once."""
        if not self.pending:
            return [self.synced]
        everything, count = _apply(self.synced, self.pending), len(self.pending)
        zeros = [_zeroed(call) for call in self.pending]
        found = [everything, self.synced, _apply(self.synced, zeros)]
        for index, call in enumerate(self.pending):
            before, after = self.pending[:index], self.pending[index + 1 :]
            half = replace(call, data=call.data[: len(call.data) // 2])
            found.append(_apply(self.synced, [*before, half]))  # torn here
            found.append(_apply(self.synced, [*before, zeros[index], *after]))  # this one is missing
            found.append(_apply(self.synced, [*zeros[:index], call]))  # this one came first
        found += [_apply(self.synced, self.pending[:kept]) for kept in range(1, count)]
        if len(everything) > len(self.synced):
            found.append(everything[:-1])
        found += [
            _some_sectors(zeros_or_old, everything, draw) for zeros_or_old in found[1:3] for _ in range(SECTOR_DRAWS)
        ]
        return list(dict.fromkeys(found))


def _some_sectors(old: bytes, new: bytes, draw: random.Random) -> bytes:
    """Some sectors are new, the others old (or zeros, where the file was shorter)."""
    old += bytes(max(0, len(new) - len(old)))
    starts = range(0, len(new), SECTOR_BYTES)
    return b"".join((new if draw.random() < 0.5 else old)[start : start + SECTOR_BYTES] for start in starts)


def _zeroed(call: Call) -> Call:
    return replace(call, data=bytes(len(call.data)))


def _apply(content: bytes, calls: list[Call]) -> bytes:
    buffer = bytearray(content)
    for call in calls:
        if call.name == "truncate":
            del buffer[call.offset :]
        buffer.extend(bytes(max(0, call.offset + len(call.data) - len(buffer))))
        buffer[call.offset : call.offset + len(call.data)] = call.data
    return bytes(buffer)


_Name = tuple[int, str]  # the folder's number, and the name in it


@dataclass(frozen=True)
class _Change:
    """`inode` goes from the name `old` (None: it is new) to `new` (None: it is removed), in one piece."""

    inode: int
    old: _Name | None
    new: _Name | None

    def touches(self, folder: int) -> bool:
        return any(name is not None and name[0] == folder for name in (self.old, self.new))


class DiskModel:
    """A disk as the calls leave it: what is durable, and what is still under way."""

    def __init__(self, tree: Tree, inodes: dict[str, int], root: str) -> None:
        """`tree` is durable; `inodes` has the number of every path in it, as `FaultyDisk` gave them."""
        self.root = root
        self.now: dict[str, int] = {root: 0, **inodes}
        self.files: dict[int, _File] = {}
        self.folders: dict[int, dict[str, int]] = {0: {}}
        self.pending: list[_Change] = []
        for name, content in tree.items():
            self._add_durable(f"{root}/{name.rstrip('/')}", content, is_folder=name.endswith("/"))

    def _add_durable(self, path: str, content: bytes, *, is_folder: bool) -> None:
        inode = self.now[path]
        folder, _, name = path.rpartition("/")
        self.folders[self.now[folder]][name] = inode
        if is_folder:
            self.folders[inode] = {}
        else:
            self.files[inode] = _File(content)

    def apply(self, call: Call) -> bool:
        """One call. False where it changes nothing that a power loss could show."""
        match call.name:
            case "open" | "mkdir" if call.path not in self.now:
                if call.name == "open":
                    self.files[call.inode] = _File()
                else:
                    self.folders[call.inode] = {}
                self.now[call.path] = call.inode
                self.pending.append(_Change(call.inode, None, self._name(call.path)))
            case "write" | "truncate":
                self.files[call.inode].pending.append(call)
            case "rename":
                self.now[call.target] = self.now.pop(call.path)
                self.pending.append(_Change(call.inode, self._name(call.path), self._name(call.target)))
            case "unlink" | "rmdir":
                self.pending.append(_Change(self.now.pop(call.path), self._name(call.path), None))
            case "fsync":
                file = self.files[call.inode]
                file.synced, file.pending = _apply(file.synced, file.pending), []
            case "fsyncdir":
                self._sync_folder(self.now[call.path])
            case _:
                return False
        return True

    def _name(self, path: str) -> _Name:
        folder, _, name = path.rpartition("/")
        return self.now[folder], name

    def sync(self) -> None:
        """Put everything on disk."""
        for inode in self.folders:
            self._sync_folder(inode)
        for file in self.files.values():
            file.synced, file.pending = _apply(file.synced, file.pending), []

    def _sync_folder(self, inode: int) -> None:
        for change in self.pending:
            if change.touches(inode):
                _rename(self.folders, change)
        self.pending = [change for change in self.pending if not change.touches(inode)]

    def states(self, draw: random.Random) -> Iterator[Tree]:
        """What may be on the disk if the power goes now."""
        for chosen in _subsets(self.pending, draw):
            names = {inode: dict(folder) for inode, folder in self.folders.items()}
            for change in chosen:
                _rename(names, change)
            paths = dict(self._paths(0, "", names))
            yield from self._filled(paths, draw)

    def _paths(self, folder: int, prefix: str, names: dict[int, dict[str, int]]) -> Iterator[tuple[str, int]]:
        for name, inode in names[folder].items():
            if inode in self.folders:
                yield f"{prefix}{name}/", inode
                yield from self._paths(inode, f"{prefix}{name}/", names)
            else:
                yield f"{prefix}{name}", inode

    def _filled(self, paths: dict[str, int], draw: random.Random) -> Iterator[Tree]:
        """The names with every content that their files may have."""
        choices = [[b""] if path.endswith("/") else self._contents(path, inode, draw) for path, inode in paths.items()]
        combinations = list(itertools.islice(itertools.product(*choices), 4096))
        if len(combinations) > MOST_CONTENTS:
            combinations = [combinations[0], *draw.sample(combinations[1:], MOST_CONTENTS - 1)]
        for contents in combinations:
            yield dict(zip(paths, contents, strict=True))

    def _contents(self, path: str, inode: int, draw: random.Random) -> list[bytes]:
        """A lock's content is only read to a person; one of its states will do, or it would be most of all states."""
        contents = self.files[inode].contents(draw)
        return [draw.choice(contents)] if _is_lock(path) else contents


def _is_lock(path: str) -> bool:
    return path.rpartition("/")[2] == "lock"


def _rename(folders: dict[int, dict[str, int]], change: _Change) -> None:
    if change.old is not None and folders[change.old[0]].get(change.old[1]) == change.inode:
        del folders[change.old[0]][change.old[1]]
    if change.new is not None:
        folders[change.new[0]][change.new[1]] = change.inode


def _subsets(pending: list[_Change], draw: random.Random) -> list[list[_Change]]:
    """Every subset in the order of the calls; of many only some, with all, none, and each one left out among them."""
    count = len(pending)
    masks = list(range(2**count)) if count <= 12 else [0, 2**count - 1, *(draw.getrandbits(count) for _ in range(64))]
    if len(masks) > MOST_SUBSETS:
        full = 2**count - 1
        certain = {0, full, *(full ^ (1 << bit) for bit in range(count))}
        masks = sorted(certain | set(draw.sample(masks, MOST_SUBSETS)))
    return [[change for bit, change in enumerate(pending) if mask >> bit & 1] for mask in masks]


@dataclass(frozen=True)
class State:
    """A tree that a power loss after `calls` calls may leave; `done`: the command had said that it was done."""

    calls: int
    tree: Tree
    done: bool


def power_loss_states(disk: FaultyDisk, start: Tree, inodes: dict[str, int], seed: int = 0) -> list[State]:
    """All states of a recorded run, each tree once (and once more where the command had ended)."""
    draw = random.Random(seed)
    model = DiskModel(start, inodes, disk.root)
    seen: set[tuple[bool, int]] = set()
    found: list[State] = []
    for index in range(-1, len(disk.calls)):
        changed = index < 0 or (not disk.calls[index].failed and model.apply(disk.calls[index]))
        done = index == len(disk.calls) - 1
        for tree in model.states(draw) if changed or done else ():
            key = (done, hash(tuple(sorted(item for item in tree.items() if not _is_lock(item[0])))))
            if key not in seen:
                seen.add(key)
                found.append(State(index + 1, tree, done))
    return found


def lose_power(
    scenario: Scenario, base: Path, *, most: int | None = None, until: str | None = None, seed: int = 0
) -> Counts:
    """Run, then recover from the states a power loss may leave, or from `most` of them, drawn by `seed`."""
    disk, inodes = record(scenario, base)
    states = power_loss_states(disk, scenario.start, inodes, seed)
    random.Random(seed).shuffle(states)
    states.sort(key=lambda state: not state.done)  # few, and they show what a finished command is worth
    counts = Counts()
    for state in states[:most]:
        write_fresh(base, state.tree)
        wrong = broken_after(scenario, base, done=state.done)
        counts.add("power loss", [f"{scenario.name}: power loss after {state.calls} calls: {line}" for line in wrong])
        if until and any(until in line for line in counts.violations):
            break
    return counts
