"""What the NVIDIA driver tells through nvidia-smi: its version, power, clocks, and the memory of this process."""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass

import torch

QUERY_TIMEOUT_S = 10


@dataclass(frozen=True)
class GpuState:
    """None: the driver did not tell."""

    version: str | None = None
    power_w: float | None = None
    power_limit_w: float | None = None
    clock_mhz: float | None = None
    temperature_c: float | None = None


_FIELDS = {
    "version": "driver_version",
    "power_w": "power.draw",
    "power_limit_w": "power.limit",
    "clock_mhz": "clocks.sm",
    "temperature_c": "temperature.gpu",
}


def query_gpu(device: torch.device) -> GpuState:
    """State of the card that `device` is; empty where there is no nvidia-smi or it says nothing."""
    line = _ask(device, f"--query-gpu={','.join(_FIELDS.values())}")
    words = [word.strip() for word in line.split(",")] if line else []
    if len(words) != len(_FIELDS):
        return GpuState()
    version, *numbers = words
    return GpuState(version, *(_number(word) for word in numbers))


def process_bytes(device: torch.device) -> int | None:
    """Device memory of this process as the driver counts it: allocations, context and libraries.

    None where the driver does not list this process (a container may hide process ids, Windows does not count).
    """
    for line in (_ask(device, "--query-compute-apps=pid,used_memory") or "").splitlines():
        pid, _, used = line.partition(",")
        amount = _number(used.strip())
        if pid.strip() == str(os.getpid()) and amount is not None:
            return int(amount * (1 << 20))
    return None


def _ask(device: torch.device, query: str) -> str | None:
    program = shutil.which("nvidia-smi")
    if program is None or device.type != "cuda":
        return None
    identity = f"GPU-{torch.cuda.get_device_properties(device).uuid}"  # an index would ignore CUDA_VISIBLE_DEVICES
    command = [program, f"--id={identity}", query, "--format=csv,noheader,nounits"]
    try:
        run = subprocess.run(command, capture_output=True, text=True, timeout=QUERY_TIMEOUT_S, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return run.stdout.strip()


def _number(word: str) -> float | None:
    try:
        return float(word)
    except ValueError:  # "[N/A]"
        return None
