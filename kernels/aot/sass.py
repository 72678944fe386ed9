"""Reads the machine code of a kernel (what nvdisasm prints) and finds the loop where its time goes. Needs no Triton."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

LABEL = re.compile(r"\s*(\.L_x?_?\w+):")
INSTRUCTION = re.compile(r"\s*/\*[0-9a-f]+\*/\s+(?:@!?U?P\w+\s+)?([A-Z0-9_.x]+)\s*(.*?);")
TARGET = re.compile(r"`\((\.L_x?_?\w+)\)")
# Tensor-core opcodes by what they multiply: 16-bit, integer, 8-bit floats, 4-bit floats; G: by a group of four warps.
TENSOR = frozenset({"HMMA", "IMMA", "QMMA", "OMMA", "HGMMA", "IGMMA", "QGMMA"})
GROUP_SHAPE = re.compile(r"\.(\d+)x(\d+)x(\d+)")
WARP_SHAPE = re.compile(r"\.168(\d+)")  # 16 x 8 x the digits that follow


@dataclass(frozen=True)
class HotLoop:
    """What one warp executes in one pass through the loop's code, which may hold several rounds (unrolled).

    `tensor` counts tensor-core instructions by their full opcode; `local` the loads and stores of spilled registers.
    """

    instructions: int
    tensor: Mapping[str, int]
    mufu: int
    local: int

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> HotLoop:
        """What `vars(loop)` was."""
        return cls(**fields)


def find_hot_loop(sass: str) -> HotLoop:
    """The loop with the most tensor-core instructions, of those the shortest; without any, the longest loop."""
    opcodes, loops = _read(sass)
    bodies = [opcodes[start : end + 1] for start, end in loops] or [opcodes]
    return _describe(max(bodies, key=_heat))


def _heat(body: list[str]) -> tuple[int, int]:
    count = sum(opcode.split(".")[0] in TENSOR for opcode in body)
    return count, -len(body) if count else len(body)


def _read(sass: str) -> tuple[list[str], list[tuple[int, int]]]:
    """All opcodes in order, and of every branch backwards the first and the last opcode of its loop."""
    opcodes: list[str] = []
    labels: dict[str, int] = {}
    loops: list[tuple[int, int]] = []
    for line in sass.splitlines():
        if label := LABEL.match(line):
            labels[label[1]] = len(opcodes)
        elif found := INSTRUCTION.match(line):
            opcodes.append(found[1])
            target = TARGET.search(found[2]) if found[1].startswith("BRA") else None
            if target and target[1] in labels:
                loops.append((labels[target[1]], len(opcodes) - 1))
    return opcodes, loops


def _describe(body: list[str]) -> HotLoop:
    kinds = Counter(opcode.split(".")[0] for opcode in body)
    tensor = Counter(opcode for opcode in body if opcode.split(".")[0] in TENSOR)
    return HotLoop(len(body), dict(tensor), kinds["MUFU"], kinds["LDL"] + kinds["STL"])


def multiply_adds(opcode: str) -> int:
    """Multiply-accumulates that one warp's tensor-core instruction stands for; of a group of four warps, a quarter."""
    if shape := GROUP_SHAPE.search(opcode):
        return int(shape[1]) * int(shape[2]) * int(shape[3]) // 4
    if shape := WARP_SHAPE.search(opcode):
        return 16 * 8 * int(shape[1])
    raise ValueError(f"tensor-core opcode {opcode} without a shape that is known")
