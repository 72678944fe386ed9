"""What a benchmark ran on: device, driver, host and versions, said plainly. No names of hosts or people."""

from __future__ import annotations

import contextlib
import os
import platform
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import psutil  # type: ignore[import-untyped]  # it ships no types
import torch

from .. import __version__
from .driver import query_gpu
from .results import Plain

PACKAGES = ("torch", "triton", "diffusers", "transformers", "sageattention", "torchao", "bitsandbytes")


def describe_machine(device: torch.device) -> dict[str, Plain]:
    """The device and the host. `device` is the name under which results of equal machines are put together."""
    host: dict[str, Plain] = {
        "host_cpu": f"{os.cpu_count()}-core {platform.machine().replace('_', '-')} CPU",
        "host_memory_bytes": int(psutil.virtual_memory().total),
        "threads": torch.get_num_threads(),
        "system": platform.system(),
    }
    if device.type != "cuda":
        return {"device": str(host["host_cpu"]), "kind": "cpu", **host}
    properties = torch.cuda.get_device_properties(device)
    driver = query_gpu(device)
    return {
        "device": properties.name,
        "kind": "cuda",
        "capability": properties.major * 10 + properties.minor,
        "device_memory_bytes": properties.total_memory,
        "multiprocessors": properties.multi_processor_count,
        "driver": driver.version,
        "cuda": torch.version.cuda,
        "power_limit_w": driver.power_limit_w,
        **host,
    }


def installed_versions() -> dict[str, str]:
    """hvlite, Python and the packages that may take part, where installed."""
    found = {"hvlite": __version__, "python": sys.version.split()[0]}
    for name in PACKAGES:
        with contextlib.suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def source_commit() -> str | None:
    """The commit of the source tree this runs from, with + behind it where files were changed; None outside of one."""
    root = Path(__file__).parent.parent
    if not (root / ".git").exists():
        return None
    head, changes = (_git(root, *words) for words in (("rev-parse", "--short=12", "HEAD"), ("status", "--porcelain")))
    return None if head is None else head + ("+" if changes else "")


def _git(root: Path, *words: str) -> str | None:
    try:
        run = subprocess.run(["git", "-C", str(root), *words], capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return run.stdout.strip()
