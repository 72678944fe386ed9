"""What nvidia-smi says, read from its text: the driver, the cards, and who has memory on them."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass

TIMEOUT_S = 20
CARD_FIELDS = "uuid,name,memory.total,memory.free,compute_cap,pcie.link.gen.max,pcie.link.width.current"
HOLDER_FIELDS = "gpu_uuid,pid,process_name,used_memory"
_VERSIONS = re.compile(r"Driver Version:\s*(\d[\d.]*).*?CUDA Version:\s*(\d+)\.(\d+)", re.DOTALL)
_DRIVER = re.compile(r"Driver Version:\s*(\d[\d.]*)")
# What nvidia-smi prints where it fails: words of it, what they mean, what helps.
FAILURES = (
    (
        "Driver/library version mismatch",
        "the driver was updated and the old one is still loaded",
        "sudo reboot",
    ),
    (
        "couldn't communicate with the NVIDIA driver",
        "the NVIDIA driver is installed but not loaded",
        "sudo modprobe nvidia   # if that fails: install the driver for this kernel, then sudo reboot",
    ),
    (
        "Failed to initialize NVML: Unknown Error",
        "the container has lost its access to the card",
        "start the container again, with --gpus all",
    ),
    ("No devices were found", "the driver is loaded and finds no card", "sudo dmesg | grep -i nvidia"),
    (
        "GPU access blocked by the operating system",
        "WSL may not use the card",
        "wsl --update, then wsl --shutdown, in Windows",
    ),
)


@dataclass(frozen=True)
class Driver:
    """`cuda`: the newest CUDA the driver runs; None where it does not say. `problem` and `fix`: why nothing works."""

    version: str | None = None
    cuda: tuple[int, int] | None = None
    problem: str | None = None
    fix: str | None = None


@dataclass(frozen=True)
class Card:
    """One card as the driver sees it; None: it does not say. Bytes."""

    uuid: str
    name: str
    total_bytes: int | None
    free_bytes: int | None
    capability: tuple[int, int] | None
    pcie_generation: int | None
    pcie_lanes: int | None


@dataclass(frozen=True)
class Holder:
    """A process that has memory on a card."""

    uuid: str
    pid: str
    program: str
    used_bytes: int | None


def ask(*arguments: str) -> str | None:
    """All that nvidia-smi prints, whether it succeeds or fails; None where there is none."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return None
    try:
        done = subprocess.run([program, *arguments], capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
    except (OSError, subprocess.SubprocessError) as error:
        return f"nvidia-smi failed: {error}"
    return done.stdout + done.stderr


def read_driver(text: str) -> Driver:
    """The driver from the text of a plain `nvidia-smi`."""
    for words, problem, fix in FAILURES:
        if words in text:
            return Driver(problem=problem, fix=fix)
    versions = _VERSIONS.search(text)
    if versions:
        return Driver(versions[1], (int(versions[2]), int(versions[3])))
    version = _DRIVER.search(text)
    if version:
        return Driver(version[1])
    said = " ".join(text.split())[:200] or "nothing"
    return Driver(problem=f"nvidia-smi says: {said}", fix="nvidia-smi")


def read_cards(text: str) -> list[Card]:
    """The cards from `--query-gpu=CARD_FIELDS --format=csv,noheader,nounits`."""
    return [
        Card(uuid, name, _mib(total), _mib(free), _capability(capability), _int(generation), _int(lanes))
        for uuid, name, total, free, capability, generation, lanes in _rows(text, 7)
    ]


def read_holders(text: str) -> list[Holder]:
    """The processes from `--query-compute-apps=HOLDER_FIELDS --format=csv,noheader,nounits`."""
    return [Holder(uuid, pid, program, _mib(used)) for uuid, pid, program, used in _rows(text, 4)]


def driver_suits(driver: tuple[int, int], built: tuple[int, int]) -> bool:
    """Whether a driver for CUDA `driver` runs a program built for `built`: within one major version, and upward."""
    return driver[0] >= built[0]


def _rows(text: str, columns: int) -> Iterator[list[str]]:
    for line in text.splitlines():
        words = [word.strip() for word in line.split(",")]
        if len(words) == columns:
            yield words


def _int(word: str) -> int | None:
    return int(word) if word.isascii() and word.isdigit() else None  # "[N/A]", "[Not Supported]"


def _mib(word: str) -> int | None:
    number = _int(word)
    return None if number is None else number << 20


def _capability(word: str) -> tuple[int, int] | None:
    major, _, minor = word.partition(".")
    return (int(major), int(minor)) if major.isdigit() and minor.isdigit() else None
