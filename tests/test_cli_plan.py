"""`hvlite plan` as a user and as a program meet it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hvlite.cli import main

PRESET = ["plan", "--model", "hunyuan-video-fp8"]
FIELDS = {"fits", "peak_vram_bytes", "peak_ram_bytes", "pinned_bytes", "stages", "blocks", "tile", "token_chunk"}


def planned(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, dict]:
    code = main([*PRESET, *arguments, "--json"])
    out, err = capsys.readouterr()
    assert err == ""
    return code, json.loads(out)


def test_json_of_a_plan_that_fits(capsys):
    code, plan = planned(capsys, "--gpu", "RTX 4070", "--resolution", "720p", "--frames", "129")
    assert code == 0
    assert plan["fits"]
    assert plan.keys() >= FIELDS
    assert "nearest" not in plan
    assert [stage["name"] for stage in plan["stages"]] == ["text", "modulation", "denoise", "decode", "write"]
    assert all(stage.keys() >= {"vram_bytes", "ram_bytes", "streamed_bytes", "seconds"} for stage in plan["stages"])
    assert sum(plan["blocks"].values()) == 60
    assert plan["peak_vram_bytes"] + plan["reserve_bytes"] <= 12 << 30


def test_what_does_not_fit_is_json_and_exit_code_6(capsys):
    code, plan = planned(capsys, "--vram-limit", "4GiB")
    assert code == 6
    assert not plan["fits"]
    assert len(plan["nearest"]) == 3
    for setting in plan["nearest"]:
        again, nearer = planned(capsys, *arguments_with(["--vram-limit", "4GiB"], setting["options"]))
        assert (again, nearer["fits"]) == (0, True)


def arguments_with(given: list[str], options: str) -> list[str]:
    """The options of a nearest setting beside those given: a limit in it replaces the one given."""
    return [*([] if "--vram-limit" in options else given), *options.split()]


def test_the_caps_are_read(capsys):
    _, plan = planned(capsys, "--vram-limit", "9.5GiB", "--ram-limit", "24GB", "--video-size", "544", "960")
    assert plan["vram_limit_bytes"] == 19 << 29
    assert plan["ram_limit_bytes"] == 24 * 10**9
    assert (plan["height"], plan["width"], plan["frames"], plan["steps"]) == (544, 960, 129, 50)
    _, plan = planned(capsys, "--gpu", "RTX 4090", "--vram-limit", "10GiB")
    assert plan["vram_limit_bytes"] == 10 << 30
    assert plan["gpu"] == "RTX 4090"


def test_text(capsys):
    assert main([*PRESET, "--gpu", "rtx 4060", "--frames", "33"]) == 0
    out = capsys.readouterr().out
    assert "fits" in out
    assert "denoise" in out
    assert main([*PRESET, "--vram-limit", "3GiB"]) == 6
    assert "what fits" in capsys.readouterr().out


def test_table(capsys):
    assert main(["plan", "--table"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("| size | frames | RTX 4060, 8 GB | ")
    assert len(lines) == 8
    assert "\n".join(lines) in (Path(__file__).parent.parent / "README.md").read_text()


def test_the_table_of_caps_in_the_docs_is_what_the_tool_says(capsys):
    assert main([*PRESET, "--caps", "--gpu", "RTX 4090"]) == 0
    docs = (Path(__file__).parent.parent / "docs" / "memory.md").read_text()
    shown = docs.partition("<!-- caps -->\n")[2].partition("<!-- /caps -->")[0]
    assert capsys.readouterr().out == shown
    assert len(shown.splitlines()) == 7


def test_the_table_as_json(capsys):
    assert main(["plan", "--table", "--json"]) == 0
    plans = json.loads(capsys.readouterr().out)
    assert len(plans) == 6 * 5
    assert {(plan["card"], plan["size"]) for plan in plans} >= {("RTX 4060", "720p"), ("RTX 3090", "540p")}
    assert all(plan.keys() >= FIELDS and plan["gpu"] == plan["card"] for plan in plans)


def test_the_caps_as_json(capsys):
    assert main([*PRESET, "--caps", "--gpu", "RTX 4090", "--frames", "33", "--json"]) == 0
    plans = json.loads(capsys.readouterr().out)
    assert [plan["cap_bytes"] >> 30 for plan in plans] == [24, 16, 12, 8, 6]
    assert all(plan.keys() >= FIELDS and plan["card"] == "RTX 4090" and plan["frames"] == 33 for plan in plans)


def test_words_for_blocks_in_one_place_and_for_a_time_that_is_not_known(capsys):
    assert main([*PRESET, "--vram-limit", "80GiB"]) == 0
    out = capsys.readouterr().out
    assert "blocks: all 60 resident\n" in out
    assert "no time of a step is known for a card without a name" in out
    assert main([*PRESET, "--gpu", "RTX 5050", "--frames", "33"]) == 0
    out = capsys.readouterr().out
    assert "no time of a step is known for RTX 5050" in out
    assert "not known a step" not in out
    assert main([*PRESET, "--gpu", "RTX 4070"]) == 0
    out = capsys.readouterr().out
    assert " a step\n" in out.splitlines(keepends=True)[-1]
    assert main([*PRESET, "--vram-limit", "8GiB", "--tier", "disk"]) == 0
    assert "blocks: all 60 on disk; " in capsys.readouterr().out
    assert main([*PRESET, "--vram-limit", "8GiB"]) == 0
    assert " of 60; " in capsys.readouterr().out


def test_a_card_that_is_not_in_the_table(capsys):
    assert main(["plan", "--gpu", "RTX 4095"]) == 2
    assert "hint: nearest: RTX 40" in capsys.readouterr().err
    assert main(["plan", "--gpu", "RTX 9999"]) == 2
    hint = capsys.readouterr().err.splitlines()[-1]
    assert "nearest" not in hint
    assert hint.startswith("hint: known: RTX 2060, ")
    assert "RTX 5090" in hint


def test_caps_of_what_fits_nowhere(capsys):
    assert main([*PRESET, "--caps", "--ram-limit", "2GiB"]) == 0
    rows = capsys.readouterr().out.splitlines()
    assert {row.count("|") for row in rows} == {10}
    assert all("no: " in row for row in rows[2:])


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["--gpu", "Voodoo 2"], 2),
        (["--vram-limit", "12"], 2),
        (["--ram-limit", "lots"], 2),
        (["--frames", "100"], 2),
        (["--video-size", "721", "1280"], 2),
        (["--steps", "0"], 2),
        (["--tier", "moon"], 2),
        (["--device", "cpu", "--gpu", "RTX 4090"], 2),
        (["--resolution", "720p", "--video-size", "720", "1280"], 2),
        (["--model", "no-such-preset"], 2),
    ],
)
def test_refusals(arguments, code, capsys):
    assert main(["plan", "--model", "hunyuan-video-fp8", *arguments]) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ")


@pytest.mark.parametrize("tree", ["ckpts_official", "ckpts_diffusers"])
def test_a_folder(golden, capsys, tree):
    arguments = ["--video-size", "64", "96", "--frames", "9", "--device", "cpu", "--json"]
    assert main(["plan", "--model", str(golden / tree), *arguments]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert plan["blocks"] == {"resident": 4, "host": 0, "disk": 0}
    assert plan["peak_vram_bytes"] == 0
    assert main(["plan", "--model", str(golden / tree), *arguments, "--tier", "disk"]) == 2
