"""Makes a random hvlite folder of full size, as `hvlite quantize` makes one of the released weights; no download.

    python -m hvlite.benchmarks.full_size_folder FOLDER

Part by part: a source as `make_full_size` writes it, converted, and removed. So the disk holds the folder (22 GB) and
one source (25.6 GB at most), where a conversion of all parts at once needs 65 GB. Parts that FOLDER has are kept.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..files import write_atomic
from ..quantize.convert import QuantizeOptions, run_quantize
from ..quantize.format import MANIFEST, PICTURE, REPORT, read_manifest
from ..quantize.manifest import manifest_bytes
from ..quantize.plot import draw_report
from ..quantize.recipe import PARTS
from ..quantize.report import make_report, report_bytes
from .make_full_size import make_part


def complete_folder(folder: Path, *, small: bool = False) -> list[str]:
    """Make the parts that `folder` lacks, with tiny shapes where `small`. Their names. CheckpointError, DiskError."""
    present = {name.split("/")[0] for name in read_manifest(folder).files} if folder.exists() else set()
    missing = [part for part in PARTS if part not in present]
    for part in missing:
        join_folder(folder, _convert(part, folder, small=small))
    return missing


def _convert(part: str, folder: Path, *, small: bool) -> Path:
    """One part in a folder of its own, beside `folder`; what an interrupted run left there is made again."""
    source, made = (folder.with_name(f"{folder.name}.{name}") for name in ("source", "part"))
    run_quantize(QuantizeOptions(make_part(part, source, small=small), made, parts=(part,), force=True))
    shutil.rmtree(source)
    return made


def join_folder(folder: Path, made: Path) -> None:
    """Move the parts of the folder `made` to `folder`, which has none of them. hvlite.json of both comes last."""
    if not folder.exists():
        made.rename(folder)
        return
    manifests = [json.loads((root / MANIFEST).read_bytes()) for root in (folder, made)]
    reports = [json.loads((root / REPORT).read_bytes()) for root in (folder, made)]
    for name in sorted(manifests[1]["files"].keys() - {REPORT, PICTURE}):
        (folder / name).parent.mkdir(exist_ok=True)
        (made / name).rename(folder / name)
    joined = _joined(*manifests)
    report = make_report(layer for each in reports for layer in each["layers"])
    for name, content in {REPORT: report_bytes(report), PICTURE: draw_report(report["layers"])}.items():
        write_atomic(folder / name, content)
        joined["files"][name] = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    write_atomic(folder / MANIFEST, manifest_bytes(joined))
    shutil.rmtree(made)


def _joined(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    """What hvlite.json says of two folders together."""
    settings = {**one["settings"]}
    for name in ("recipe", "source"):
        settings[name] = one["settings"][name] | other["settings"][name]
    small_files = (each["settings"]["other_files"] for each in (one, other))
    settings["other_files"] = hashlib.sha256("".join(small_files).encode()).hexdigest()
    return {
        **one,
        "settings": settings,
        "transformer": one["transformer"] or other["transformer"],
        "schemes": one["schemes"] | other["schemes"],
        "files": one["files"] | other["files"],
    }


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--small", action="store_true", help="the same layout with tiny shapes")
    arguments = parser.parse_args()
    print(json.dumps({"made": complete_folder(arguments.folder, small=arguments.small)}))


if __name__ == "__main__":
    main()
