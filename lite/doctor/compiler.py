"""Can Triton compile (a real kernel, in a process of its own), and is it a version that our kernels know?"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator

from ...kernels.triton_state import INSTALL, installed_triton
from .finding import Finding, Patient

TIMEOUT_S = 120
# Words of what a failing probe prints, what they mean, what helps.
CAUSES = (
    ("Failed to find C compiler", "there is no C compiler, which Triton needs", "sudo apt install gcc"),
    ("Python.h", "Python's headers are missing, which Triton needs", "sudo apt install python3-dev"),
    ("libcuda.so", "the driver's libcuda.so is not found", "sudo ldconfig; in WSL update the driver in Windows"),
    ("No space left on device", "its cache has no space left", "df -h ~/.triton"),
    ("Permission denied", "its cache cannot be written", "export TRITON_CACHE_DIR=/a/folder/of/yours"),
)
SLOWER = "PyTorch's own kernels run instead, more slowly"


def check_triton(patient: Patient) -> Iterator[Finding]:
    """Not installed is no illness: everything has a PyTorch form."""
    state = installed_triton()
    if state.version is None:
        yield Finding("triton", "ok", state.reason, INSTALL if sys.platform == "linux" else None)
        return
    yield probe_triton(sys.executable, state.version)
    if not state.usable:
        yield Finding("triton version", "warning", f"{state.version}: {state.reason}; {SLOWER}", INSTALL)


def probe_triton(python: str, version: str) -> Finding:
    """Compile a kernel and run it where there is a card."""
    command = [python, "-m", "hvlite.kernels.triton_probe"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
    except subprocess.TimeoutExpired:
        what = f"Triton {version} did not compile a small kernel in {TIMEOUT_S} s; {SLOWER}"
        return Finding("triton", "warning", what, "rm -r ~/.triton/cache")
    if done.returncode:
        return judge_failure(version, done.returncode, done.stderr)
    found = json.loads(done.stdout.splitlines()[-1])
    ran = "and ran it, with the right result" if found["ran"] else "(no card to run it on)"
    return Finding("triton", "ok", f"Triton {found['version']} compiled a kernel for sm_{found['capability']} {ran}")


def judge_failure(version: str, code: int, stderr: str) -> Finding:
    """The reason in what the probe printed before it ended."""
    for words, meaning, fix in CAUSES:
        if words in stderr:
            return Finding("triton", "warning", f"Triton {version} cannot compile: {meaning}; {SLOWER}", fix)
    lines = [line for line in stderr.splitlines() if line.strip()]
    why = lines[-1].strip()[:300] if lines else f"its process ended with {code}"
    again = f"pip install --force-reinstall {INSTALL.removeprefix('pip install ')}"
    return Finding("triton", "warning", f"Triton {version} is broken: {why}; {SLOWER}", again)
