"""Resident memory of a command, read from outside its process, in all and stage by stage.

Linux: what is read is /proc/PID/status: VmHWM, the most that was ever resident, and VmRSS, what is now; page cache
apart. A stage is what the JSON lines on the command's stdout say: a `stage_started` event begins one. It is given the
VmRSS seen every 20 ms while it lasts, and VmHWM where that rose meanwhile.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

POLL_S = 0.02
_FIELD = re.compile(r"^(VmHWM|VmRSS|RssAnon|RssFile):\s+(\d+) kB$", re.MULTILINE)


def watch(command: Sequence[str]) -> tuple[list[str], dict[str, Any]]:
    """Run a command; its lines on stdout, and what it held at most. CalledProcessError where it fails."""
    began = time.monotonic()
    peaks, stages = Peaks(), Stages()
    with (
        tempfile.NamedTemporaryFile("w+") as out,
        open(out.name) as said,
        subprocess.Popen(command, stdout=out, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}) as process,
    ):
        while process.poll() is None:
            stages.follow(said)
            peaks.see(stages.name, resident_bytes(process.pid))
            time.sleep(POLL_S)
        if process.returncode:
            raise subprocess.CalledProcessError(process.returncode, list(command))
        said.seek(0)
        lines = said.read().splitlines()
    return lines, {
        "peak_rss_bytes": peaks.all_bytes,
        "peak_anonymous_bytes": peaks.anonymous_bytes,
        "peak_rss_by_stage": peaks.by_stage,
        "seconds": round(time.monotonic() - began, 2),
    }


def resident_bytes(pid: int) -> dict[str, int]:
    """VmHWM, VmRSS, RssAnon and RssFile of a process; empty where it has just ended."""
    try:
        text = Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return {}
    return {name: int(kib) << 10 for name, kib in _FIELD.findall(text)}


class Stages:
    """The stage a command is in, from the lines it writes."""

    def __init__(self) -> None:
        self.name = "start"
        self._rest = ""

    def follow(self, said: TextIO) -> None:
        """Read what is new; a line that is not whole yet waits."""
        *lines, self._rest = (self._rest + said.read()).split("\n")
        for line in lines:
            if line.startswith('{"event": "stage_started"'):
                self.name = json.loads(line)["stage"]


class Peaks:
    """The most that was resident: ever, in each stage, and of anonymous memory alone."""

    def __init__(self) -> None:
        self.all_bytes, self.anonymous_bytes = 0, 0
        self.by_stage: dict[str, int] = {}

    def see(self, stage: str, seen: Mapping[str, int]) -> None:
        """Take one reading into account; an empty one says nothing."""
        if not seen:
            return
        held = max(seen["VmRSS"], seen["VmHWM"] if seen["VmHWM"] > self.all_bytes else 0)
        self.by_stage[stage] = max(held, self.by_stage.get(stage, 0))
        self.all_bytes = max(self.all_bytes, seen["VmHWM"])
        self.anonymous_bytes = max(self.anonymous_bytes, seen["RssAnon"])
