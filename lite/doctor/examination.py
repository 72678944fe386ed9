"""All checks in the order in which a person would ask, and their findings as text or as JSON."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from ..durations import counted
from .compiler import check_triton
from .disk import check_disk_rate, check_link_rate, check_space
from .finding import Check, Finding, Patient, examine, exit_code
from .gpu import check_gpu
from .host import check_memory, check_page_lock, check_system
from .model import check_model, check_plan, check_trial
from .parts import check_encoders, check_optional, check_packages, check_python, check_ways

CHECKS: tuple[tuple[str, Check], ...] = (
    ("hvlite", check_python),
    ("system", check_system),
    ("packages", check_packages),
    ("gpu", check_gpu),
    ("triton", check_triton),
    ("attention and linear layers", check_ways),
    ("optional packages", check_optional),
    ("memory", check_memory),
    ("page-locking", check_page_lock),
    ("PCIe rate", check_link_rate),
    ("disk space", check_space),
    ("disk rate", check_disk_rate),
    ("video encoders", check_encoders),
    ("model", check_model),
    ("plan", check_plan),
    ("trial", check_trial),
)
MARKS = {"ok": "ok  ", "warning": "WARN", "error": "FAIL"}


def examine_all(patient: Patient, on_check: Callable[[str], None]) -> Iterator[Finding]:
    """The findings as they come; `on_check` hears what is examined next."""
    for name, check in CHECKS:
        on_check(name)
        yield from examine(name, check, patient)


def line_of(finding: Finding) -> str:
    """A finding for people: one line, and one for the fix where something is wrong."""
    line = f"{MARKS[finding.state]}  {finding.name}: {finding.what}"
    return line if finding.fix is None or finding.state == "ok" else f"{line}\n      fix: {finding.fix}"


def verdict(findings: Sequence[Finding]) -> str:
    """The last line."""
    wrong = [finding.name for finding in findings if finding.state == "error"]
    if wrong:
        return f"A video cannot be made here yet: {', '.join(wrong)}"
    warnings = sum(finding.state == "warning" for finding in findings)
    return "A video can be made here." + (f" {counted(warnings, 'warning')} above." if warnings else "")


def as_json(findings: Sequence[Finding]) -> dict[str, Any]:
    """Everything for programs."""
    code = exit_code(findings)
    return {"works": code == 0, "exit_code": code, "findings": [finding.to_json() for finding in findings]}
