"""The machine around the card: memory, what a container or WSL leaves of it, page-locking, the system itself."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Iterator
from pathlib import Path

from .finding import Finding, Patient

GIB = 1 << 30
LOCK_TEST_BYTES = 64 << 20
LITTLE_BYTES = 3 * GIB  # the demo takes under 1 GiB; torch and transformers about as much
UNLIMITED = 1 << 60


def check_memory(patient: Patient) -> Iterator[Finding]:
    """What is free, and what a container may take."""
    import psutil  # type: ignore[import-untyped]  # it ships no types

    memory = psutil.virtual_memory()
    limit = container_limit()
    yield judge_memory(memory.total, memory.available, limit)


def judge_memory(total: int, available: int, limit: int | None) -> Finding:
    """`limit`: of the container, in bytes; None: none, or no smaller than the machine."""
    usable = available if limit is None else min(available, limit)
    what = f"{total / GIB:.1f} GiB of memory, {available / GIB:.1f} GiB available"
    if limit is not None and limit < total:
        what += f"; this container may use {limit / GIB:.1f} GiB"
    if usable < LITTLE_BYTES:
        fix = "docker run --memory ..." if limit is not None and limit < available else "ps aux --sort=-rss | head"
        return Finding("memory", "warning", f"{what}: little even for the demo", fix, exit_code=6)
    return Finding("memory", "ok", what)


def container_limit(proc: Path = Path("/proc/self/cgroup"), root: Path = Path("/sys/fs/cgroup")) -> int | None:
    """The smallest memory limit of the control groups of this process, versions 2 and 1; None where there is none."""
    limits = [_limit(path) for path in _limit_files(proc, root)]
    return min((limit for limit in limits if limit is not None), default=None)


def _limit_files(proc: Path, root: Path) -> Iterator[Path]:
    try:
        lines = proc.read_text(encoding="utf-8").splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        top, name = (root, "memory.max") if not controllers else (root / "memory", "memory.limit_in_bytes")
        if not controllers or "memory" in controllers.split(","):
            group = top / path.strip("/")
            yield from (folder / name for folder in (group, *group.parents) if folder.is_relative_to(top))


def _limit(path: Path) -> int | None:
    try:
        text = path.read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        return None
    return int(text) if text.isdigit() and int(text) < UNLIMITED else None


def check_page_lock(patient: Patient) -> Iterator[Finding]:
    """The limit that `ulimit -l` shows, and one real buffer where there is a card."""
    import torch

    allowed = _lock_limit()
    shown = "no limit" if allowed is None else f"limit {allowed / GIB:.2f} GiB (ulimit -l)"
    if not torch.cuda.is_available():
        yield Finding("page-locking", "ok", f"{shown}; only a GPU needs it")
        return
    from ..streaming.host_memory import CudaPageLock, HostBuffer

    buffer = HostBuffer(LOCK_TEST_BYTES)
    try:
        refusal = buffer.pin(CudaPageLock.of(torch.device("cuda")))
    finally:
        buffer.close()
    if refusal is None:
        yield Finding("page-locking", "ok", f"{LOCK_TEST_BYTES >> 20} MiB were page-locked; {shown}")
    else:
        what = f"the driver refuses to page-lock {LOCK_TEST_BYTES >> 20} MiB ({refusal}): copies will be slow; {shown}"
        yield Finding("page-locking", "warning", what, "ulimit -l unlimited   # in a container: --ulimit memlock=-1")


def _lock_limit() -> int | None:
    import resource

    limit = resource.getrlimit(resource.RLIMIT_MEMLOCK)[0]
    return None if limit == resource.RLIM_INFINITY else limit


def check_system(patient: Patient) -> Iterator[Finding]:
    """Linux, WSL or something else, and what is to know about it."""
    yield from judge_system(sys.platform, platform.release(), patient.model)


def judge_system(system: str, release: str, model: Path | None) -> Iterator[Finding]:
    """`system` as sys.platform, `release` as uname -r."""
    if system == "win32":
        what = "native Windows: hvlite's file locks need POSIX, and Triton needs Linux"
        yield Finding("system", "error", what, "wsl --install   # then install hvlite inside")
    elif "microsoft" in release.lower():
        spill = "WSL: the driver may move what does not fit on the card into shared memory, which is many times slower"
        fix = "NVIDIA Control Panel > Manage 3D settings > CUDA - Sysmem Fallback Policy > Prefer No Sysmem Fallback"
        yield Finding("system", "warning", spill, fix)
        if model is not None and str(model.absolute()).startswith("/mnt/"):
            what = f"{model} lies on a Windows disk, which WSL reads slowly"
            yield Finding("model's disk", "warning", what, f"cp -r {model} ~/")
    elif system == "linux":
        yield Finding("system", "ok", f"Linux {release}, {os.cpu_count()} CPUs")
    else:
        yield Finding("system", "warning", f"{system}: hvlite is tested on Linux; a GPU here is not used")
