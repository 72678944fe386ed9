"""What the doctor makes of outputs of nvidia-smi, of control groups, of failing compilers and of full disks."""

from __future__ import annotations

import subprocess
import sys
from collections import namedtuple
from pathlib import Path
from typing import NoReturn

import pytest
import torch

from hvlite.errors import CheckpointError, ConfigError
from hvlite.kernels.triton_state import TritonState
from hvlite.lite import attention, device
from hvlite.lite.attention import AUTO
from hvlite.lite.device import DeviceInfo
from hvlite.lite.doctor import disk
from hvlite.lite.doctor.compiler import judge_failure, probe_triton
from hvlite.lite.doctor.disk import check_disk_rate, check_space, judge_space
from hvlite.lite.doctor.examination import CHECKS, as_json, line_of, verdict
from hvlite.lite.doctor.finding import Finding, Patient, examine, exit_code
from hvlite.lite.doctor.gpu import Torch, judge_card, judge_driver
from hvlite.lite.doctor.host import container_limit, judge_memory, judge_system
from hvlite.lite.doctor.model import check_model
from hvlite.lite.doctor.nvidia import Card, Driver, Holder, read_cards, read_driver, read_holders

MODEL = Path(__file__).parent.parent / "data" / "golden" / "ckpts_official"
GIB = 1 << 30
# As reported in public issues: the first lines of a healthy card, of one in WSL, and what it prints where it fails.
WSL = """Fri Jul 19 13:41:16 2024
+-----------------------------------------------------------------------------------------+
| NVIDIA-SMI 555.52.01              Driver Version: 555.99         CUDA Version: 12.5     |
|-----------------------------------------+------------------------+----------------------+
"""
WSL_ERROR = "| NVIDIA-SMI 545.46                 Driver Version: 546.80       CUDA Version: ERR!     |"
MISMATCH = "Failed to initialize NVML: Driver/library version mismatch\nNVML library version: 570.124\n"
UNLOADED = (
    "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver. "
    "Make sure that the latest NVIDIA driver is installed and running.\n"
)
CPU_TORCH = Torch("2.13.0+cpu", None, works=False)
CUDA_TORCH = Torch("2.13.0", (13, 0), works=False, complaint="The NVIDIA driver on your system is too old")
PATIENT = Patient("auto", None, Path())


@pytest.mark.parametrize(
    ("text", "driver"),
    [
        (WSL, Driver("555.99", (12, 5))),
        (WSL_ERROR, Driver("546.80")),
        (MISMATCH, Driver(problem="the driver was updated and the old one is still loaded", fix="sudo reboot")),
    ],
)
def test_the_driver_from_its_text(text: str, driver: Driver) -> None:
    assert read_driver(text) == driver


@pytest.mark.parametrize("text", [UNLOADED, "No devices were found\n", "", "\x00rubbish"])
def test_a_driver_that_does_not_work_has_a_problem_and_a_fix(text: str) -> None:
    driver = read_driver(text)
    assert driver.version is None
    assert driver.problem
    assert driver.fix


@pytest.mark.parametrize(
    ("driver", "torch", "words", "fix"),
    [
        (None, CPU_TORCH, "no NVIDIA driver", None),
        (read_driver(WSL), CPU_TORCH, "a build for the CPU", "pip install"),
        (read_driver(WSL), CUDA_TORCH, "runs CUDA 12.5, but torch 2.13.0 is built for CUDA 13.0", "580 or newer"),
        (Driver("580.65", (13, 0)), CUDA_TORCH, "driver on your system is too old", "CUDA_VISIBLE_DEVICES"),
        (read_driver(MISMATCH), CUDA_TORCH, "still loaded", "sudo reboot"),
        (read_driver(UNLOADED), CUDA_TORCH, "not loaded", "sudo modprobe nvidia"),
    ],
)
def test_what_stands_between_torch_and_the_card(driver: Driver | None, torch: Torch, words: str, fix: str) -> None:
    for wanted, state in (("auto", "warning"), ("cpu", "warning"), ("cuda", "error")):
        found = judge_driver(driver, torch, wanted)
        assert found.state == state
        assert words in found.what
        assert (fix in found.fix) if found.fix else fix is None


def test_a_driver_and_a_torch_that_work_together() -> None:
    found = judge_driver(Driver("580.65", (13, 0)), Torch("2.13.0", (13, 0), works=True), "cuda")
    assert found.state == "ok"


def test_cards_and_who_holds_their_memory() -> None:
    text = "GPU-1, NVIDIA GeForce RTX 4070, 12282, 3000, 8.9, 4, 16\nGPU-2, Old, [N/A], [N/A], 6.1, [N/A], [N/A]\n"
    new, old = read_cards(text)
    assert new == Card("GPU-1", "NVIDIA GeForce RTX 4070", 12282 << 20, 3000 << 20, (8, 9), 4, 16)
    assert (old.total_bytes, old.pcie_generation) == (None, None)
    (holder,) = read_holders("GPU-1, 4711, /usr/bin/python3, 8000\nnonsense\n")
    assert holder == Holder("GPU-1", "4711", "/usr/bin/python3", 8000 << 20)
    taken = judge_card(new, [holder])
    assert taken.state == "warning"
    assert "/usr/bin/python3 (process 4711, 7.8 GiB)" in taken.what
    assert taken.fix is not None
    assert "4711" in taken.fix
    assert "does not list" in judge_card(new, []).what
    assert "RTX 20" in judge_card(old, []).what
    free = Card("GPU-1", "NVIDIA GeForce RTX 4070", 12282 << 20, 12000 << 20, (8, 9), 4, 16)
    assert judge_card(free, []).state == "ok"


@pytest.mark.parametrize(
    ("stderr", "words", "fix"),
    [
        ("RuntimeError: Failed to find C compiler. Please specify via CC", "no C compiler", "apt install gcc"),
        ("fatal error: Python.h: No such file or directory", "headers", "python3-dev"),
        ("OSError: [Errno 28] No space left on device", "no space", "df -h"),
        ("ImportError: libtriton.so: undefined symbol", "undefined symbol", "pip install --force-reinstall"),
        ("", "ended with -11", "pip install --force-reinstall"),
    ],
)
def test_why_triton_cannot_compile(stderr: str, words: str, fix: str) -> None:
    found = judge_failure("3.7.1", -11, stderr)
    assert found.state == "warning"  # everything has a PyTorch form
    assert words in found.what
    assert found.fix is not None
    assert fix in found.fix


def test_a_broken_triton_is_found_by_importing_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "triton").mkdir()
    (tmp_path / "triton" / "__init__.py").write_text("raise ImportError('libtriton.so: undefined symbol: foo')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    found = probe_triton(sys.executable, "3.7.1")
    assert found.state == "warning"
    assert "undefined symbol: foo" in found.what
    assert found.fix is not None
    assert "--force-reinstall" in found.fix


@pytest.mark.slow
def test_a_good_triton_compiles_a_kernel() -> None:
    pytest.importorskip("triton")
    found = probe_triton(sys.executable, "any")
    assert found.state == "ok", found.what
    assert "compiled a kernel for sm_" in found.what


def test_a_full_disk(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(disk.shutil, "disk_usage", lambda path: usage(GIB, GIB, 1 << 20))
    patient = Patient("cpu", None, tmp_path / "not" / "there")
    output, *others = check_space(patient)
    assert (output.state, output.exit_code) == ("error", 4)
    assert "1 MiB free" in output.what
    assert output.fix is not None
    assert output.fix.startswith("df -h")
    assert {finding.state for finding in others} == {"warning"}
    assert list(check_disk_rate(patient)) == []  # nothing is written onto a full disk


def test_a_disk_that_is_really_full(tmp_path: Path) -> None:
    """A file system of one megabyte in a user's own namespace."""
    judge = "import sys; from hvlite.lite.doctor.disk import judge_space; from pathlib import Path"
    script = (
        f"mount -t tmpfs -o size=1m none {tmp_path} && {sys.executable} -c "
        f"\"{judge}; print(judge_space('disk', Path('{tmp_path}'), 'error', 'df').what)\""
    )
    command = ["unshare", "-rm", "sh", "-c", script]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
    except FileNotFoundError:
        pytest.skip("no unshare")
    if "Operation not permitted" in done.stderr or "permission denied" in done.stderr:
        pytest.skip("user namespaces are not allowed here")
    assert f"1 MiB free at {tmp_path}: too little" in done.stdout, done.stderr


def test_a_disk_with_space_and_its_rate(tmp_path: Path) -> None:
    assert judge_space("disk", tmp_path, "error", "df").state in ("ok", "warning")
    (rate,) = check_disk_rate(Patient("cpu", None, tmp_path))
    assert "GB/s" in rate.what
    assert not list(tmp_path.iterdir())


def test_the_limit_of_a_container_is_the_smallest_above(tmp_path: Path) -> None:
    group = tmp_path / "docker" / "abc"
    group.mkdir(parents=True)
    proc = tmp_path / "cgroup"
    proc.write_text("0::/docker/abc\n")
    assert container_limit(proc, tmp_path) is None
    (group / "memory.max").write_text("max\n")
    (tmp_path / "docker" / "memory.max").write_text(f"{8 * GIB}\n")
    assert container_limit(proc, tmp_path) == 8 * GIB
    (group / "memory.max").write_text(f"{4 * GIB}\n")
    assert container_limit(proc, tmp_path) == 4 * GIB
    old = tmp_path / "memory" / "docker"
    old.mkdir(parents=True)
    (old / "memory.limit_in_bytes").write_text("9223372036854771712\n")  # version 1's word for none
    proc.write_text("4:memory:/docker\n1:name=systemd:/x\n")
    assert container_limit(proc, tmp_path) is None
    (old / "memory.limit_in_bytes").write_text(f"{2 * GIB}\n")
    assert container_limit(proc, tmp_path) == 2 * GIB
    assert container_limit(tmp_path / "nowhere", tmp_path) is None


def test_little_memory_names_the_container() -> None:
    assert judge_memory(32 * GIB, 20 * GIB, None).state == "ok"
    assert judge_memory(32 * GIB, 20 * GIB, 64 * GIB).what.endswith("available")
    tight = judge_memory(32 * GIB, 20 * GIB, 2 * GIB)
    assert tight.state == "warning"
    assert tight.fix == "docker run --memory ..."


def test_systems() -> None:
    (linux,) = judge_system("linux", "6.8.0-45-generic", None)
    assert linux.state == "ok"
    spill, slow = judge_system("linux", "5.15.153.1-microsoft-standard-WSL2", Path("/mnt/c/ckpts"))
    assert "shared memory" in spill.what
    assert slow.fix == "cp -r /mnt/c/ckpts ~/"
    (windows,) = judge_system("win32", "10", None)
    assert windows.state == "error"
    assert windows.fix is not None
    assert "wsl --install" in windows.fix


def test_models() -> None:
    (shipped,) = check_model(PATIENT)
    assert shipped.state == "ok"
    (official,) = check_model(Patient("cpu", MODEL, Path()))
    assert "official layout" in official.what
    assert official.fix is not None
    assert official.fix.startswith(f"hvlite quantize {MODEL}")
    (missing,) = examine("model", check_model, Patient("cpu", Path("nowhere"), Path()))
    assert (missing.state, missing.exit_code) == ("error", 2)


@pytest.mark.parametrize(
    ("capability", "taken", "why"),
    [
        (None, "torch sdpa", "a CPU computes in fp32, exactly"),
        ((8, 6), "hvlite int8-fp16", AUTO[86][1]),
        ((8, 9), "hvlite int8-fp8-fp16", AUTO[89][1]),
        ((9, 0), "hvlite int8-fp8", AUTO[90][1]),
    ],
    ids=["CPU", "RTX 30", "RTX 40", "H100"],
)
def test_which_attention_a_run_takes_and_why(
    monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int] | None, taken: str, why: str
) -> None:
    found = ways_of(monkeypatch, capability, TritonState("3.7.1", True, "fine"))
    assert found == Finding("attention", "ok", f"{taken} ({why})")


def test_the_attention_of_a_card_without_triton(monkeypatch: pytest.MonkeyPatch) -> None:
    found = ways_of(monkeypatch, (8, 9), TritonState(None, False, "not installed"))
    assert found.what == "torch sdpa (Triton: not installed)"


def ways_of(monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int] | None, triton: TritonState) -> Finding:
    """The doctor's line on attention, of a CPU or of a card of this capability."""
    kind = "cpu" if capability is None else "cuda"
    info = DeviceInfo(torch.device(kind), "a device", capability)
    monkeypatch.setattr(device, "probe_device", lambda name: info)
    monkeypatch.setattr(attention, "triton_state", lambda: triton)
    findings = examine("ways", dict(CHECKS)["attention and linear layers"], Patient(kind, None, Path()))
    (found,) = [each for each in findings if each.name == "attention"]
    return found


def raising(error: Exception) -> NoReturn:
    raise error


def test_a_check_that_raises_is_a_finding() -> None:
    (own,) = examine("model", lambda _: raising(CheckpointError("torn", hint="again")), PATIENT)
    assert own == Finding("model", "error", "torn", "again", 3)
    (other,) = examine("model", lambda _: raising(ZeroDivisionError("by\nzero")), PATIENT)
    assert other.state == "warning"
    assert other.what == "could not be examined: ZeroDivisionError: by zero"


def test_the_verdict_and_the_code() -> None:
    fine, bad = Finding("a", "warning", "so so", "do this"), Finding("b", "error", "bad", "do that", 4)
    assert exit_code([fine]) == 0
    assert exit_code([fine, bad]) == 4
    assert "1 warning above" in verdict([fine])
    assert "cannot be made here yet: b" in verdict([fine, bad])
    assert line_of(bad) == "FAIL  b: bad\n      fix: do that"
    assert as_json([fine, bad])["works"] is False
    assert len({name for name, _ in CHECKS}) == len(CHECKS)


@pytest.mark.parametrize("patient", [("tpu", None, Path()), ("cpu", Path("a\0"), Path()), ("cpu", None, Path("\0"))])
def test_a_patient_that_cannot_be(patient: tuple[str, Path | None, Path]) -> None:
    with pytest.raises(ConfigError):
        Patient(*patient)
