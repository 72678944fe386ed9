"""Reads the pickle inside a `.pt` file as data. Nothing is imported, called or executed.

A pickle is a program for a small stack machine. This one knows the instructions that build plain values and tensor
records, and an allow-list of names; any other instruction or name is refused. Values are bounded in number, so
references cannot multiply memory.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any

from .tensor_file import MAX_TENSORS
from .tensor_records import PickleError, apply, refer, storage_of

MAX_NODES = 40 * MAX_TENSORS  # values built; a tensor takes about thirty

_MARK = object()


def load_plain(data: bytes) -> Any:
    """The value a pickle describes: dicts, lists, tuples, numbers, strings and `TensorRef`s. Raises PickleError."""
    try:
        return _Machine(data).run()
    except (IndexError, struct.error, UnicodeDecodeError) as error:
        raise PickleError("it is damaged") from error


class _Machine:
    def __init__(self, data: bytes) -> None:
        self.data = data
        self.at = 0
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}
        self.nodes = 0

    def run(self) -> Any:
        while True:
            code = self.data[self.at]
            self.at += 1
            if code == 0x2E:  # STOP
                return self._result()
            step = _STEPS.get(code)
            if step is None:
                raise PickleError(f"it uses the instruction {bytes([code])!r}, which no plain checkpoint needs")
            step(self)
            self.nodes += 1
            if self.nodes > MAX_NODES:
                raise PickleError(f"it builds more than {MAX_NODES} values")

    def _result(self) -> Any:
        if len(self.stack) != 1 or self.stack[0] is _MARK:
            raise PickleError("it leaves no single value")
        return self.stack[0]

    def take(self, count: int) -> bytes:
        if count < 0 or self.at + count > len(self.data):
            raise PickleError("it ends inside a value")
        self.at += count
        return self.data[self.at - count : self.at]

    def skip(self, count: int) -> None:
        self.take(count)

    def protocol(self) -> None:
        if self.number("<B") > 5:
            raise PickleError("it uses a newer pickle protocol than 5")

    def number(self, layout: str) -> int:
        value: int = struct.unpack(layout, self.take(struct.calcsize(layout)))[0]
        return value

    def line(self) -> str:
        end = self.data.find(b"\n", self.at, self.at + 256)
        if end < 0:
            raise PickleError("it ends inside a name")
        text = self.take(end - self.at).decode("utf-8")
        self.at += 1
        return text

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def pop(self) -> Any:
        value = self.stack.pop()
        if value is _MARK:
            raise PickleError("it is damaged")
        return value

    def pop_to_mark(self) -> list[Any]:
        for index in range(len(self.stack) - 1, -1, -1):
            if self.stack[index] is _MARK:
                values = self.stack[index + 1 :]
                del self.stack[index:]
                return values
        raise PickleError("it is damaged")

    def remember(self, index: int) -> None:
        if index > MAX_NODES or self.stack[-1] is _MARK:
            raise PickleError("it is damaged")
        self.memo[index] = self.stack[-1]

    def recall(self, index: int) -> None:
        if index not in self.memo:
            raise PickleError("it refers to a value that was never built")
        self.stack.append(self.memo[index])

    def set_items(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if not isinstance(target, dict) or len(items) % 2:
            raise PickleError("it puts items into something that is not a dict")
        for key, value in zip(items[::2], items[1::2], strict=True):
            if not isinstance(key, str | int):
                raise PickleError("it has a key that is neither text nor a number")
            if key in target:
                raise PickleError(f"the key {key!r:.200} appears twice")
            target[key] = value

    def append_items(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if not isinstance(target, list):
            raise PickleError("it appends to something that is not a list")
        target.extend(items)

    def reduce(self) -> None:
        arguments = self.pop()
        self.push(apply(self.pop(), arguments))

    def build(self) -> None:
        """State for an OrderedDict (its `_metadata`) is dropped; anything else has none."""
        self.pop()
        if not isinstance(self.stack[-1], dict):
            raise PickleError("it sets the state of something that is not a dict")

    def integer(self, count: int) -> None:
        if count > 16:
            raise PickleError("it holds a number of more than 128 bits")
        self.push(int.from_bytes(self.take(count), "little", signed=True))

    def text(self, length: int) -> None:
        self.push(self.take(length).decode("utf-8"))

    def last(self, count: int) -> None:
        self.push(tuple([self.pop() for _ in range(count)][::-1]))

    def pair(self) -> list[Any]:
        return [self.pop() for _ in range(2)][::-1]


_STEPS: dict[int, Callable[[_Machine], None]] = {
    0x80: lambda m: m.protocol(),
    0x95: lambda m: m.skip(8),  # FRAME: a hint on buffering
    ord("}"): lambda m: m.push({}),
    ord("]"): lambda m: m.push([]),
    ord(")"): lambda m: m.push(()),
    ord("N"): lambda m: m.push(None),
    0x88: lambda m: m.push(True),
    0x89: lambda m: m.push(False),
    ord("K"): lambda m: m.push(m.number("<B")),
    ord("M"): lambda m: m.push(m.number("<H")),
    ord("J"): lambda m: m.push(m.number("<i")),
    0x8A: lambda m: m.integer(m.number("<B")),
    0x8B: lambda m: m.integer(m.number("<I")),
    ord("G"): lambda m: m.push(struct.unpack(">d", m.take(8))[0]),
    ord("X"): lambda m: m.text(m.number("<I")),
    0x8C: lambda m: m.text(m.number("<B")),
    0x8D: lambda m: m.text(m.number("<Q")),
    ord("("): lambda m: m.push(_MARK),
    ord("t"): lambda m: m.push(tuple(m.pop_to_mark())),
    0x85: lambda m: m.last(1),
    0x86: lambda m: m.last(2),
    0x87: lambda m: m.last(3),
    ord("q"): lambda m: m.remember(m.number("<B")),
    ord("r"): lambda m: m.remember(m.number("<I")),
    0x94: lambda m: m.remember(len(m.memo)),
    ord("h"): lambda m: m.recall(m.number("<B")),
    ord("j"): lambda m: m.recall(m.number("<I")),
    ord("s"): lambda m: m.set_items(m.pair()),
    ord("u"): lambda m: m.set_items(m.pop_to_mark()),
    ord("a"): lambda m: m.append_items([m.pop()]),
    ord("e"): lambda m: m.append_items(m.pop_to_mark()),
    ord("c"): lambda m: m.push(refer(m.line(), m.line())),
    0x93: lambda m: m.push(refer(*m.pair())),
    ord("Q"): lambda m: m.push(storage_of(m.pop())),
    ord("R"): lambda m: m.reduce(),
    ord("b"): lambda m: m.build(),
}
