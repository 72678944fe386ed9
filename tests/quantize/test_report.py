"""The report: its numbers by hand on small tensors, its order, its table, its picture."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch

from hvlite.quantize.convert import QuantizeOptions, run_quantize
from hvlite.quantize.plot import draw_report, report_chart
from hvlite.quantize.quality import ErrorSums
from hvlite.quantize.report import report_bytes, report_table

PICTURED = ("fp8", "nf4")  # the schemes of the default conversion


def test_the_numbers_are_what_they_are_called() -> None:
    original, stored = torch.randn(5, 7), torch.randn(5, 7)
    whole, pieces = ErrorSums(), ErrorSums()
    whole.add(original, stored)
    for one, other in zip(original.split(2), stored.split(2), strict=True):
        pieces.add(one, other)
    for sums in (whole, pieces):
        quality = sums.quality()
        error = original - stored
        assert quality.relative_error == pytest.approx(float(error.norm() / original.norm()), rel=1e-5)
        assert quality.sqnr_db == pytest.approx(-20 * math.log10(error.norm() / original.norm()), rel=1e-5)
        cosine = torch.nn.functional.cosine_similarity(original.flatten(), stored.flatten(), dim=0)
        assert quality.cosine == pytest.approx(float(cosine), abs=1e-6)
        assert quality.largest_error == pytest.approx(float(error.abs().max()))


def test_equal_tensors_and_zeros() -> None:
    same = ErrorSums()
    same.add(torch.ones(3), torch.ones(3))
    assert same.quality().to_json() == {"relative_error": 0, "sqnr_db": None, "cosine": 1, "largest_error": 0}
    zero = ErrorSums()
    zero.add(torch.zeros(3), torch.zeros(3))
    assert zero.quality().cosine == 1


@pytest.fixture(scope="module")
def made(golden: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("report") / "out"
    run_quantize(QuantizeOptions(golden / "ckpts_official", output))
    return output


def test_the_report_has_every_weight_and_the_worst_first(made: Path) -> None:
    report = json.loads((made / "report.json").read_text())
    assert len(report["layers"]) == 458
    errors = {f"{entry['part']}/{entry['name']}": entry.get("relative_error", 0) for entry in report["layers"]}
    assert report["worst"] == sorted(errors, key=lambda name: -errors[name])[:10]
    for part, totals in report["totals"].items():
        entries = [entry for entry in report["layers"] if entry["part"] == part]
        assert totals["bytes"] == sum(entry["bytes"] for entry in entries)
        assert totals["source_bytes"] == sum(entry["source_bytes"] for entry in entries)
    assert json.loads(report_bytes(report)) == report


def test_the_bytes_are_those_on_disk(made: Path) -> None:
    """All but the headers: the report's bytes add up to the files'."""
    report = json.loads((made / "report.json").read_text())
    data = 0
    for path in (made / "transformer").glob("*.safetensors"):
        data += path.stat().st_size - 8 - int.from_bytes(path.read_bytes()[:8], "little")
    assert report["totals"]["transformer"]["bytes"] == data


def test_the_table_names_totals_and_the_worst(made: Path) -> None:
    report = json.loads((made / "report.json").read_text())
    lines = report_table(report)
    assert max(map(len, lines)) <= 120
    text = "\n".join(lines)
    assert all(name in text for name in report["worst"])
    assert "fp8" in text
    assert "nf4" in text


def test_the_picture_is_the_report_s(made: Path) -> None:
    report = json.loads((made / "report.json").read_text())
    assert (made / "report.png").read_bytes() == draw_report(report["layers"])


def test_the_chart_has_a_point_for_every_quantized_weight_of_a_block(made: Path) -> None:
    layers = json.loads((made / "report.json").read_text())["layers"]
    chart = report_chart(layers)
    errors = {scheme: [layer["relative_error"] for layer in layers if layer["scheme"] == scheme] for scheme in PICTURED}
    found = {series.name: [error for _, error in series.points] for series in chart.series}
    assert found == errors
    assert [(span.name, span.start, span.end) for span in chart.spans] == [
        ("text encoder layers", -0.5, 3.5),
        ("double blocks", 3.5, 5.5),
        ("single blocks", 5.5, 7.5),
    ]
    assert [name for _, name in chart.ticks] == ["0", "1", "2", "3", "0", "1", "0", "1"]


def test_blocks_stand_in_their_order_and_every_fifth_is_numbered() -> None:
    layers = [
        {"name": f"{kind}.{index}.weight", "scheme": "int8:mse", "relative_error": index / 100}
        for kind, count in (("single_blocks", 40), ("double_blocks", 20))
        for index in reversed(range(count))
    ]
    others = [
        {"name": "single_blocks.0.norm", "scheme": "bf16", "relative_error": 0.001},
        {"name": "single_blocks.1.weight", "scheme": "fp8", "exact": True},  # taken over
        {"name": "final.weight", "scheme": "fp8", "relative_error": 0.02},
    ]
    chart = report_chart([*layers, *others])
    (series,) = chart.series
    assert series.name == "int8:mse"
    assert dict(series.points) == {place: (place if place < 20 else place - 20) / 100 for place in range(60)}
    assert [name for _, name in chart.ticks] == ["0", "5", "10", "15", "0", "5", "10", "15", "20", "25", "30", "35"]


def test_a_report_of_nothing_is_drawn() -> None:
    assert report_chart([]).empty
    assert draw_report([]).startswith(b"\x89PNG")
