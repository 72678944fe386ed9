"""What hvlite stands on: packages, encoders, the ways that attention and linear layers will take."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from ...kernels.triton_state import triton_state
from .finding import Finding, Patient

NEEDED = ("torch", "transformers", "tokenizers", "safetensors", "av", "numpy")
AGAIN = "pip install --force-reinstall -c constraints.txt ."


def check_packages(patient: Patient) -> Iterator[Finding]:
    """The packages without which nothing works: imported, not only looked up."""
    import importlib

    versions = []
    for name in NEEDED:
        try:
            importlib.import_module(name)
        except Exception as error:  # noqa: BLE001  # a broken package raises anything
            why = " ".join(str(error).split())[:200]
            yield Finding(name, "error", f"{name} cannot be imported: {type(error).__name__}: {why}", AGAIN)
            continue
        versions.append(f"{name} {version(name)}")
    yield Finding("packages", "ok", ", ".join(versions))


def check_optional(patient: Patient) -> Iterator[Finding]:
    """Packages that may be there: none is needed."""
    for name, role in (
        ("sageattention", "an attention that can be compared with ours"),
        ("bitsandbytes", "not needed: hvlite reads and writes NF4 itself"),
        ("torchao", "not needed: hvlite has its own fp8 and int8 layers"),
    ):
        try:
            yield Finding(name, "ok", f"{version(name)}: {role}")
        except PackageNotFoundError:
            yield Finding(name, "ok", f"not installed: {role}")


def check_encoders(patient: Patient) -> Iterator[Finding]:
    """A few frames as H.264 and lossless, written and read back."""
    import torch

    from ..output.encoding import VideoEncoding
    from ..output.video_read import video_info
    from ..video import write_video

    frames = torch.zeros(5, 32, 48, 3, dtype=torch.uint8)
    with tempfile.TemporaryDirectory(prefix="hvlite-doctor-") as folder:
        for name, encoding in (("a.mp4", VideoEncoding()), ("a.mkv", VideoEncoding(kind="lossless"))):
            path = Path(folder, name)
            write_video(path, [frames], fps=24, settings={}, encoding=encoding)
            found = video_info(path).frames
            if found != len(frames):
                what = f"{name[2:]}: wrote {len(frames)} frames, read {found}"
                yield Finding("video encoders", "error", what, "pip install --force-reinstall av")
    yield Finding("video encoders", "ok", "H.264 and FFV1 (PyAV brings its own FFmpeg; none need be installed)")


def check_ways(patient: Patient) -> Iterator[Finding]:
    """Which attention and which matrix products a run will use, and why."""
    from ..arithmetic import choose_arithmetic, describe_kernels, kernel_capability
    from ..attention import choose_attention
    from ..device import choose_dtypes, probe_device

    info = probe_device(patient.device)
    attention = choose_attention("auto", info, choose_dtypes(info).transformer)
    yield Finding("attention", "ok", f"{attention} ({attention.why})")
    linear = describe_kernels(info.device, choose_arithmetic("auto", kernel_capability(info.device)))
    why = "a CPU, in fp32"
    if info.is_cuda and info.capability is not None:
        why = f"capability {info.capability[0]}.{info.capability[1]}; Triton: {triton_state().reason}"
    yield Finding("linear layers", "ok", f"{linear} for fp8 and int8 weights ({why})")


def check_python(patient: Patient) -> Iterator[Finding]:
    """The interpreter and hvlite itself."""
    from ... import __version__

    yield Finding("hvlite", "ok", f"{__version__}, Python {sys.version.split()[0]}")
