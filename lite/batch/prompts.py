"""The prompts of a batch: a CSV file with a `prompt` column, or a text file with one a line. Imports no torch.

In a text file a line that begins with # is a comment, as in most files of lines; in a CSV file it is a row.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ...errors import CheckpointError, ConfigError
from ...files import read_limited

LIMIT_BYTES = 64 << 20
MOST_PROMPTS = 100_000
WHOLE_NUMBERS = ("seed", "height", "width", "frames", "steps")
NUMBERS = ("guidance",)
TEXTS = ("negative_prompt",)
COMMENT = "#"
# Read line by line, each of these would give prompts that nobody wrote.
OTHER_FORMATS = frozenset({".json", ".jsonl", ".ndjson", ".tsv", ".toml", ".yaml", ".yml", ".xml", ".parquet", ".xlsx"})


@dataclass(frozen=True)
class BatchRow:
    """A line of the file: `number` counts the prompts from 1. `problem`: what is wrong with it, else empty.

    `seed` and the rest are None where the file does not say.
    """

    number: int
    prompt: str
    seed: int | None = None
    height: int | None = None
    width: int | None = None
    frames: int | None = None
    steps: int | None = None
    guidance: float | None = None
    negative_prompt: str | None = None
    problem: str = ""


def read_prompts(path: Path) -> tuple[list[BatchRow], list[str]]:
    """The rows, and what a person should know of the rest of the file. ConfigError for a file without a prompt."""
    if path.suffix.lower() in OTHER_FORMATS:
        raise ConfigError(
            f"{path}: prompts are not read from {path.suffix} files",
            hint="give a text file with one prompt a line, or a .csv with a column called prompt",
        )
    text = _read(path)
    rows, notes = _csv_rows(path, text) if path.suffix.lower() == ".csv" else _line_rows(text)
    if not rows:
        raise ConfigError(f"{path} holds no prompt", hint="one prompt a line, or a .csv with a column called prompt")
    if len(rows) > MOST_PROMPTS:
        raise ConfigError(f"{path} holds {len(rows):,} prompts; {MOST_PROMPTS:,} is the limit", hint="split the file")
    return rows, notes


def _read(path: Path) -> str:
    try:
        return read_limited(path, LIMIT_BYTES).decode("utf-8-sig")
    except CheckpointError as error:
        raise ConfigError(error.message, hint="give a file of prompts") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{path} is not UTF-8 text", hint="save it as UTF-8") from None


def _line_rows(text: str) -> tuple[list[BatchRow], list[str]]:
    lines = [line for line in map(str.strip, text.splitlines()) if line]
    prompts = [line for line in lines if not line.startswith(COMMENT)]
    left_out = len(lines) - len(prompts)
    notes = [f"lines that begin with {COMMENT} are comments: {left_out} left out"] if left_out else []
    return [BatchRow(number, prompt) for number, prompt in enumerate(prompts, 1)], notes


def _csv_rows(path: Path, text: str) -> tuple[list[BatchRow], list[str]]:
    (_, header), *lines = _csv_lines(path, text) or [(1, [])]
    columns = [name.strip().lower() for name in header]
    _check_columns(path, columns)
    filled = [(line, cells) for line, cells in lines if any(cell.strip() for cell in cells)]
    rows = [_csv_row(number, line, columns, cells) for number, (line, cells) in enumerate(filled, 1)]
    unknown = sorted(set(columns) - {"prompt", *WHOLE_NUMBERS, *NUMBERS, *TEXTS})
    return rows, [f"the column {name!r} means nothing here" for name in unknown]


def _csv_lines(path: Path, text: str) -> list[tuple[int, list[str]]]:
    """The cells of each row with the line of the file it begins on. Strict: a quote that is not closed is no cell."""
    reader = csv.reader(io.StringIO(text, newline=""), skipinitialspace=True, strict=True)
    rows, begins = [], 1
    try:
        for cells in reader:
            if cells:
                rows.append((begins, cells))
            begins = reader.line_num + 1
    except csv.Error as error:
        what = "a quote that opens there is not closed" if str(error) == "unexpected end of data" else str(error)
        raise ConfigError(
            f"{path}, line {begins}: {what}",
            hint='a prompt that holds commas is quoted, "like, this"; a quote in it is doubled, ""',
        ) from None
    return rows


def _check_columns(path: Path, columns: list[str]) -> None:
    if columns.count("prompt") == 1:
        return
    commas = "commas are expected between columns; " if any(set(";\t|") & set(name) for name in columns) else ""
    raise ConfigError(
        f"{path} has no column called prompt, or several; its columns are {', '.join(columns) or 'none'}",
        hint=f"{commas}its first line names them: prompt,seed,height,width,frames,steps,guidance,negative_prompt",
    )


def _csv_row(number: int, line: int, columns: Sequence[str], row: Sequence[str]) -> BatchRow:
    """A row that cannot be read keeps its prompt and says why; the others are made all the same."""
    cells = dict.fromkeys(columns, "") | dict(zip(columns, row, strict=False))
    prompt, problems = cells["prompt"].strip(), []
    if any(cell.strip() for cell in row[len(columns) :]):
        problems.append(f"line {line} has {len(row)} cells for {len(columns)} columns: quote a prompt with commas")
    found: dict[str, int | float | str | None] = {}
    for name in (*WHOLE_NUMBERS, *NUMBERS):
        cell = cells.get(name, "").strip()
        try:
            found[name] = (int(cell) if name in WHOLE_NUMBERS else float(cell)) if cell else None
        except ValueError:
            problems.append(f"{name} {cell[:40]!r} is not a number")
    if (found["height"] is None) != (found["width"] is None):
        problems.append("height and width go together")
    found["negative_prompt"] = cells.get("negative_prompt", "").strip() or None
    return BatchRow(number, prompt, **found, problem="; ".join(problems))  # type: ignore[arg-type]
