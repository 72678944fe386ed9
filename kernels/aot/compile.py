"""Compiles one case with Triton's own compiler and reads from the binary what it needs of a card."""

from __future__ import annotations

import re
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from ..launch import CompileCase
from .sass import HotLoop, find_hot_loop

TOOLS = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
RESOURCES = re.compile(r"REG:(\d+) STACK:(\d+)")
SPILLS = re.compile(r"(\d+) bytes spill stores, (\d+) bytes spill loads")
PRODUCT = re.compile(r"((?:wgmma\.mma_async|mma)\.sync\.aligned\.[\w.:]+)")
ALIGNED = [["tt.divisibility", 16]]


@dataclass(frozen=True)
class Compiled:
    """What the compiler made of a case. `products` are its tensor-core instructions in PTX, the most frequent first."""

    shared_bytes: int
    registers: int
    spill_bytes: int
    products: tuple[str, ...]
    loop: HotLoop


def compile_case(case: CompileCase) -> Compiled:
    """Compile a case and read its resources from the binary. What the compiler raises comes through."""
    options = {"num_warps": case.launch.num_warps, "num_stages": case.launch.num_stages}
    made = triton.compile(_source(case), target=GPUTarget("cuda", case.capability, 32), options=options)
    with tempfile.TemporaryDirectory(prefix="hvlite-aot-") as folder:
        binary = Path(folder, "kernel.cubin")
        binary.write_bytes(made.asm["cubin"])
        usage = RESOURCES.search(_tool("cuobjdump", "--dump-resource-usage", str(binary)))
        loop = find_hot_loop(_tool("nvdisasm", "-c", str(binary)))
    if usage is None:
        raise RuntimeError(f"cuobjdump tells no resources of {case.name}")
    registers, stack = (int(number) for number in usage.groups())
    spills = _spill_bytes(made.asm["ptx"], case.capability) if stack or loop.local else 0
    found = PRODUCT.findall(made.asm["ptx"])
    products = tuple(sorted(dict.fromkeys(found), key=found.count, reverse=True))
    return Compiled(made.metadata.shared, registers, spills, products, loop)


def _source(case: CompileCase) -> Any:
    """What the launcher would find at run time: the types, and which arguments are multiples of 16."""
    attributes = {
        (index,): ALIGNED
        for index, (name, kind) in enumerate(case.signature.items())
        if kind.startswith(("*", "i")) and name not in case.unaligned
    }
    return ASTSource(fn=case.kernel, signature=dict(case.signature), constexprs=dict(case.constexprs), attrs=attributes)


def _spill_bytes(ptx: str, capability: int) -> int:
    """Bytes a thread stores to and loads from spilled registers, as the assembler tells it."""
    target = re.search(r"^\.target\s+(sm_\w+)", ptx, re.MULTILINE)
    with tempfile.TemporaryDirectory(prefix="hvlite-aot-") as folder:
        text = Path(folder, "kernel.ptx")
        text.write_text(ptx, encoding="utf-8")
        assembler = "ptxas-blackwell" if capability >= 100 and (TOOLS / "ptxas-blackwell").exists() else "ptxas"
        arch = target[1] if target else f"sm_{capability}"
        told = _tool(assembler, "-v", f"-arch={arch}", str(text), "-o", str(Path(folder, "out")))
    return sum(int(part) for found in SPILLS.findall(told) for part in found)


def _tool(name: str, *arguments: str) -> str:
    """What a program of the Triton wheel prints, on both channels."""
    done = subprocess.run([str(TOOLS / name), *arguments], capture_output=True, text=True, check=True)
    return done.stdout + done.stderr
