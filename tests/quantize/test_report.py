"""The report: its numbers by hand on small tensors, its order, its table, its picture."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from hvlite.quantize.convert import QuantizeOptions, run_quantize
from hvlite.quantize.plot import draw_report, encode_png
from hvlite.quantize.quality import ErrorSums
from hvlite.quantize.report import report_bytes, report_table


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


def test_the_picture_is_a_png_with_a_dot_for_every_weight(made: Path) -> None:
    av = pytest.importorskip("av")
    data = (made / "report.png").read_bytes()
    report = json.loads((made / "report.json").read_text())
    assert draw_report(report["layers"]) == data
    with av.open(str(made / "report.png")) as file:
        picture = next(file.decode(video=0)).to_ndarray(format="rgb24")
    assert picture.shape == (420, 1200, 3)
    for colour in ((38, 99, 235), (5, 150, 105)):  # fp8, nf4
        assert (picture == colour).all(axis=2).sum() > 200


def test_png_pixels_survive(tmp_path: Path) -> None:
    av = pytest.importorskip("av")
    canvas = np.random.default_rng(0).integers(0, 256, (7, 13, 3), dtype=np.uint8)
    (tmp_path / "x.png").write_bytes(encode_png(canvas))
    with av.open(str(tmp_path / "x.png")) as file:
        assert np.array_equal(next(file.decode(video=0)).to_ndarray(format="rgb24"), canvas)


def test_a_report_of_nothing_is_drawn() -> None:
    assert draw_report([]).startswith(b"\x89PNG")
