"""The prompts of a batch: a CSV file with a `prompt` column, or a text file with one a line. Imports no torch."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ...errors import CheckpointError, ConfigError
from ...files import read_limited

LIMIT_BYTES = 64 << 20
MOST_PROMPTS = 100_000
WHOLE_NUMBERS = ("seed", "height", "width", "frames", "steps")
NUMBERS = ("guidance",)
TEXTS = ("negative_prompt",)


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
    """The rows, and the names of columns that mean nothing here. ConfigError for a file without a prompt."""
    text = _read(path)
    rows, unknown = _csv_rows(path, text) if path.suffix.lower() == ".csv" else (_line_rows(text), [])
    if not rows:
        raise ConfigError(f"{path} holds no prompt", hint="one prompt a line, or a .csv with a column called prompt")
    if len(rows) > MOST_PROMPTS:
        raise ConfigError(f"{path} holds {len(rows):,} prompts; {MOST_PROMPTS:,} is the limit", hint="split the file")
    return rows, unknown


def _read(path: Path) -> str:
    try:
        return read_limited(path, LIMIT_BYTES).decode("utf-8-sig")
    except CheckpointError as error:
        raise ConfigError(error.message, hint="give a file of prompts") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{path} is not UTF-8 text", hint="save it as UTF-8") from None


def _line_rows(text: str) -> list[BatchRow]:
    prompts = [line.strip() for line in text.splitlines()]
    return [BatchRow(number, prompt) for number, prompt in enumerate(filter(None, prompts), 1)]


def _csv_rows(path: Path, text: str) -> tuple[list[BatchRow], list[str]]:
    reader = csv.DictReader(io.StringIO(text, newline=""), skipinitialspace=True)
    try:
        columns = [name.strip().lower() for name in reader.fieldnames or ()]
        if columns.count("prompt") != 1:
            raise ConfigError(
                f"{path} has no column called prompt, or several; its columns are {', '.join(columns) or 'none'}",
                hint="its first line names the columns: prompt,seed,height,width,frames,steps,guidance,negative_prompt",
            )
        reader.fieldnames = columns
        cells = [{name: row[name] or "" for name in columns} for row in reader]
    except csv.Error as error:
        raise ConfigError(f"{path}, line {reader.line_num}: {error}", hint="quote prompts that hold commas") from None
    filled = [row for row in cells if any(cell.strip() for cell in row.values())]
    unknown = sorted(set(columns) - {"prompt", *WHOLE_NUMBERS, *NUMBERS, *TEXTS})
    return [_csv_row(number, row) for number, row in enumerate(filled, 1)], unknown


def _csv_row(number: int, cells: Mapping[str, str]) -> BatchRow:
    """A row that cannot be read keeps its prompt and says why; the others are made all the same."""
    prompt, problems = cells["prompt"].strip(), []
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
