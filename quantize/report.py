"""report.json: how well every layer is stored, the worst first, and the totals; and the same as a readable table."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from .encode import Encoded
from .plan import Weight

Layer = Mapping[str, Any]
WORST = 10


def layer_entry(weight: Weight, encoded: Encoded) -> Layer:
    """One line of the report: name, scheme, bytes before and after, and the error where there is any."""
    quality = None if encoded.quality is None else encoded.quality.to_json()
    return {
        "part": weight.part,
        "name": weight.name,
        "scheme": str(weight.choice),
        "shape": list(weight.shape),
        "source_bytes": weight.source_bytes,
        "bytes": encoded.nbytes,
        **({"exact": True} if quality is None else quality),
    }


def make_report(layers: Iterable[Layer]) -> dict[str, Any]:
    """The report of a finished conversion; layers in the order of the files."""
    entries = list(layers)
    parts = list(dict.fromkeys(entry["part"] for entry in entries))
    worst = sorted((entry for entry in entries if "exact" not in entry), key=lambda entry: -entry["relative_error"])
    return {
        "format": "hvlite-report",
        "format_version": 1,
        "totals": {part: _totals([entry for entry in entries if entry["part"] == part]) for part in parts},
        "worst": [f"{entry['part']}/{entry['name']}" for entry in worst[:WORST]],
        "layers": entries,
    }


def _totals(entries: list[Layer]) -> dict[str, Any]:
    """Of one part: weights, bytes before and after, and the mean and largest error of each quantized scheme."""
    schemes = sorted({entry["scheme"] for entry in entries})
    return {
        "weights": len(entries),
        "source_bytes": sum(entry["source_bytes"] for entry in entries),
        "bytes": sum(entry["bytes"] for entry in entries),
        "schemes": {scheme: _scheme_totals([e for e in entries if e["scheme"] == scheme]) for scheme in schemes},
    }


def _scheme_totals(entries: list[Layer]) -> dict[str, Any]:
    inexact = [entry for entry in entries if "exact" not in entry]
    totals: dict[str, Any] = {"weights": len(entries), "bytes": sum(entry["bytes"] for entry in entries)}
    if inexact:
        errors = [entry["relative_error"] for entry in inexact]
        totals["mean_relative_error"] = float(f"{sum(errors) / len(errors):.6g}")
        totals["largest_relative_error"] = max(errors)
        totals["least_cosine"] = min(entry["cosine"] for entry in inexact)
    return totals


def report_bytes(report: Mapping[str, Any]) -> bytes:
    """The report as JSON, one layer a line."""
    layers = ",\n  ".join(json.dumps(entry, ensure_ascii=False) for entry in report["layers"])
    head = json.dumps({key: value for key, value in report.items() if key != "layers"}, indent=1, ensure_ascii=False)
    return f'{head[:-2]},\n "layers": [\n  {layers}\n ]\n}}\n'.encode()


def report_table(report: Mapping[str, Any]) -> list[str]:
    """The report as lines of text: totals by part and scheme, then the worst layers."""
    lines = [f"{'part':<16}{'stored as':<10}{'weights':>8}{'GB':>9}{'mean err':>10}{'max err':>10}{'min cos':>11}"]
    for part, totals in report["totals"].items():
        for scheme, row in totals["schemes"].items():
            lines.append(_table_row(part, scheme, row))
        ratio = totals["bytes"] / max(1, totals["source_bytes"])
        lines.append(
            f"{part:<16}{'all':<10}{totals['weights']:>8}{totals['bytes'] / 1e9:>9.3f}  {ratio:.0%} of the source"
        )
    by_name = {f"{entry['part']}/{entry['name']}": entry for entry in report["layers"]}
    if report["worst"]:
        lines += ["", f"{'largest relative errors':<64}{'stored as':<10}{'error':>9}{'SQNR dB':>9}{'cosine':>11}"]
    for name in report["worst"]:
        entry = by_name[name]
        numbers = f"{entry['relative_error']:>9.5f}{entry['sqnr_db']:>9.2f}{entry['cosine']:>11.7f}"
        lines.append(f"{name:<64}{entry['scheme']:<10}{numbers}")
    return lines


def _table_row(part: str, scheme: str, row: Mapping[str, Any]) -> str:
    start = f"{part:<16}{scheme:<10}{row['weights']:>8}{row['bytes'] / 1e9:>9.3f}"
    if "mean_relative_error" not in row:
        return f"{start}{'exact':>10}"
    return (
        f"{start}{row['mean_relative_error']:>10.5f}{row['largest_relative_error']:>10.5f}{row['least_cosine']:>11.7f}"
    )
