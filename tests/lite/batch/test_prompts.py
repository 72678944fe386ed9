"""Files of prompts as people and spreadsheets write them."""

from __future__ import annotations

from pathlib import Path

import pytest

from hvlite.errors import CheckpointError, ConfigError
from hvlite.lite.batch.manifest import Entry, Manifest, read_earlier
from hvlite.lite.batch.prompts import BatchRow, read_prompts


def rows_of(path: Path, data: bytes | str, name: str = "p.csv") -> list[BatchRow]:
    file = path / name
    file.write_bytes(data.encode() if isinstance(data, str) else data)
    return read_prompts(file)[0]


def test_lines(tmp_path: Path):
    rows = rows_of(tmp_path, "\ufeffa cat\r\n\n  a dog, running \n猫が歩く\n", "p.txt")
    assert [row.prompt for row in rows] == ["a cat", "a dog, running", "猫が歩く"]
    assert [row.number for row in rows] == [1, 2, 3]


def test_a_line_that_begins_with_a_hash_is_a_comment_and_is_counted(tmp_path: Path):
    rows = rows_of(tmp_path, "# animals\na cat\n  #a dog\nthe #1 fox\n", "p.txt")
    assert [(row.number, row.prompt) for row in rows] == [(1, "a cat"), (2, "the #1 fox")]
    assert read_prompts(tmp_path / "p.txt")[1] == ["lines that begin with # are comments: 2 left out"]
    assert [row.prompt for row in rows_of(tmp_path, "prompt\n#1\n")] == ["#1"]


def test_a_row_with_more_cells_than_columns_says_its_line(tmp_path: Path):
    rows = rows_of(tmp_path, 'prompt,seed\n"two\nlines",1,,\n\na cat, running,7\na dog\n')
    assert [row.problem for row in rows] == [
        "",
        "line 5 has 3 cells for 2 columns: quote a prompt with commas; seed 'running' is not a number",
        "",
    ]
    assert [row.prompt for row in rows] == ["two\nlines", "a cat", "a dog"]


def test_csv_with_quotes_newlines_and_a_byte_order_mark(tmp_path: Path):
    data = '\ufeffPrompt, Seed ,category\r\n"a ""red"" cat,\nslowly",7,x\r\na dog,,y\r\n,,\r\n'
    rows = rows_of(tmp_path, data)
    assert [(row.number, row.prompt, row.seed) for row in rows] == [(1, 'a "red" cat,\nslowly', 7), (2, "a dog", None)]
    assert read_prompts(tmp_path / "p.csv")[1] == ["the column 'category' means nothing here"]


def test_csv_numbers(tmp_path: Path):
    (row,) = rows_of(tmp_path, "prompt,height,width,frames,steps,guidance,negative_prompt\na,64,96,17,5,4.5,blur\n")
    assert row == BatchRow(1, "a", None, 64, 96, 17, 5, 4.5, "blur")


@pytest.mark.parametrize(
    ("cells", "said"),
    [("a,x,,,", "seed 'x' is not a number"), ("a,,64,,", "height and width"), ("a,,,,1.5", "steps '1.5'")],
)
def test_a_row_that_cannot_be_read_says_why(tmp_path: Path, cells: str, said: str):
    good, bad = rows_of(tmp_path, f"prompt,seed,height,width,steps\nfine,1,,,\n{cells}\n")
    assert good.problem == ""
    assert said in bad.problem


@pytest.mark.parametrize(
    ("name", "data", "said"),
    [
        ("p.csv", "text,seed\na,1\n", "no column called prompt"),
        ("p.csv", "prompt,prompt\na,b\n", "no column called prompt"),
        ("p.csv", "prompt\n\n", "holds no prompt"),
        ("p.csv", "", "no column called prompt"),
        ("p.txt", " \n\n", "holds no prompt"),
        ("p.txt", b"\xff\xfe\x00", "not UTF-8"),
        ("p.csv", 'prompt,seed\na cat,1\n"a dog,2\na fox,3\n', "line 3: a quote that opens there is not closed"),
        ("p.csv", 'prompt,seed\n"a cat,1\na dog,2\n"a fox",3\n', "line 2: ',' expected after '\"'"),
        ("p.csv", "prompt;seed\na cat;1\n", "commas are expected"),
        ("p.csv", "prompt\tseed\na cat\t1\n", "commas are expected"),
        ("p.jsonl", '{"prompt": "a cat"}\n', "not read from .jsonl files"),
        ("p.TSV", "prompt\tseed\na cat\t1\n", "not read from .TSV files"),
        ("p.txt", "# only a comment\n", "holds no prompt"),
        ("p.csv", "prompt\n" + "x" * 200_000 + "\n", "field larger"),
    ],
)
def test_files_that_are_refused(tmp_path: Path, name: str, data: bytes | str, said: str):
    with pytest.raises(ConfigError) as refused:
        rows_of(tmp_path, data, name)
    assert said in str(refused.value)


def test_a_folder_is_not_a_file(tmp_path: Path):
    with pytest.raises(ConfigError, match="not a regular file"):
        read_prompts(tmp_path)


def test_the_manifest_is_replaced_whole(tmp_path: Path):
    manifest = Manifest(tmp_path, "p.csv", 5, [Entry(1, "a", 5, "1.mp4"), Entry(2, "b \ud800", 6, "2.mp4")])
    manifest.update(0, state="done", seconds=2.5)
    earlier = read_earlier(tmp_path)
    assert (earlier.prompts, earlier.base_seed, earlier.seconds) == ("p.csv", 5, {"1.mp4": 2.5})
    assert [(video.prompt, video.state) for video in earlier.videos] == [("a", "done"), ("b \ud800", "waiting")]
    assert manifest.counts() == {"done": 1, "failed": 0, "waiting": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["manifest.json"]


@pytest.mark.parametrize("text", ["{}", "[]", "not json", '{"schema": "other", "schema_version": 1}'])
def test_another_manifest_is_not_overwritten(tmp_path: Path, text: str):
    (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(CheckpointError, match="not the manifest of a batch"):
        read_earlier(tmp_path)
