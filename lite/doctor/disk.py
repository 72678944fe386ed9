"""The disks: is there space where hvlite writes, and how fast are they (measured, in a second or two)."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from ...errors import HvliteError
from .finding import Finding, Patient, State

GIB = 1 << 30
NEEDED_BYTES = 64 << 20  # a short video and its state
COMFORTABLE_BYTES = 2 * GIB
READ_BYTES = 128 << 20
SAMPLE_BYTES = 16 << 20  # written first, so small: a busy disk may take seconds for it
SLOW_BYTES_PER_S = 0.5e9  # a streamed fp8 step reads 13 GB: half a minute at this rate


def check_space(patient: Patient) -> Iterator[Finding]:
    """Free bytes of each folder that hvlite writes to."""
    look = f"df -h {patient.folder.absolute()}   # or choose another with --output"
    yield judge_space("output's disk", patient.folder, "error", look)
    temporary = Path(tempfile.gettempdir())
    yield judge_space("temporary files", temporary, "warning", "export TMPDIR=/a/folder/with/space")
    yield judge_space("Triton's cache", triton_cache(), "warning", "export TRITON_CACHE_DIR=/a/folder/with/space")


def judge_space(name: str, folder: Path, severity: State, fix: str) -> Finding:
    """`severity` where next to nothing is free or the folder is not to be written."""
    there = _existing(folder)
    if not os.access(there, os.W_OK | os.X_OK):
        return Finding(name, severity, f"{there} cannot be written", fix, exit_code=4)
    free = shutil.disk_usage(there).free
    what = f"{free / GIB:.1f} GiB free at {there}"
    if free < NEEDED_BYTES:
        what = f"{free >> 20} MiB free at {there}: too little for a video"
        return Finding(name, severity, what, fix, exit_code=4)
    if free < COMFORTABLE_BYTES:
        return Finding(name, "warning", what, fix)
    return Finding(name, "ok", what)


def triton_cache() -> Path:
    """Where Triton keeps compiled kernels."""
    return Path(os.environ.get("TRITON_CACHE_DIR") or Path.home() / ".triton")


def check_disk_rate(patient: Patient) -> Iterator[Finding]:
    """Reads a weight file of the model, else a sample written beside the output."""
    file = None if patient.model is None else _largest(patient.model)
    if file is not None and file.stat().st_size >= SAMPLE_BYTES:
        yield _judge_rate(read_rate(file), f"reading {file.name}")
        return
    if shutil.disk_usage(_existing(patient.folder)).free < 2 * SAMPLE_BYTES:
        return  # said by check_space
    with tempfile.NamedTemporaryFile(dir=_existing(patient.folder), prefix=".hvlite-doctor-") as sample:
        for _ in range(SAMPLE_BYTES >> 20):
            sample.write(os.urandom(1 << 20))
        sample.flush()
        os.fsync(sample.fileno())
        yield _judge_rate(read_rate(Path(sample.name)), "reading a sample")


def _judge_rate(rate: float, doing: str) -> Finding:
    what = f"{rate / 1e9:.2f} GB/s {doing}"
    if rate < SLOW_BYTES_PER_S:
        return Finding("disk rate", "warning", f"{what}: --tier disk will be slow", "put the model on a faster disk")
    return Finding("disk rate", "ok", what)


def read_rate(path: Path) -> float:
    """Bytes a second of up to READ_BYTES that the system is asked to read anew."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        buffer, done, began = bytearray(8 << 20), 0, time.perf_counter()
        while done < READ_BYTES and (count := os.readv(fd, [buffer])):
            done += count
        return done / max(1e-9, time.perf_counter() - began)
    finally:
        os.close(fd)


def check_link_rate(patient: Patient) -> Iterator[Finding]:
    """A page-locked copy to the card; nothing on a machine without one."""
    import torch

    if patient.device == "cpu" or not torch.cuda.is_available():
        return
    source = torch.empty(READ_BYTES, dtype=torch.uint8, pin_memory=True)
    target = torch.empty(READ_BYTES, dtype=torch.uint8, device="cuda")
    target.copy_(source, non_blocking=True)
    torch.cuda.synchronize()
    began = time.perf_counter()
    for _ in range(4):
        target.copy_(source, non_blocking=True)
    torch.cuda.synchronize()
    rate = 4 * READ_BYTES / (time.perf_counter() - began)
    state: State = "ok" if rate > 5e9 else "warning"
    fix = None if state == "ok" else "nvidia-smi --query-gpu=pcie.link.gen.current,pcie.link.width.current --format=csv"
    yield Finding("PCIe rate", state, f"{rate / 1e9:.1f} GB/s from page-locked memory to the card", fix)


def _existing(folder: Path) -> Path:
    folder = folder.absolute()
    return next(each for each in (folder, *folder.parents) if each.is_dir())


def _largest(model: Path) -> Path | None:
    from ...quantize.readers.locate import WEIGHT_SUFFIXES

    try:
        files = [path for path in model.rglob("*") if path.suffix in WEIGHT_SUFFIXES and path.is_file()]
    except (OSError, HvliteError):
        return None
    return max(files, key=lambda path: path.stat().st_size, default=None)
