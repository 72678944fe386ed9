"""Results as tables: plain text for a terminal, Markdown for the results page. Units come from the names."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from .results import BenchFile, Plain, Result, Seconds

Row = list[str]


def results_text(made: BenchFile) -> str:
    """Everything of a run, for a terminal."""
    lines = [machine_line(made), ""]
    for part in dict.fromkeys(result.part for result in made.results):
        lines += [part, *aligned(part_rows(made.part(part))), ""]
    lines += [f"not run: {each.part}: {each.reason}" for each in made.not_run]
    return "\n".join(lines).rstrip()


def machine_line(made: BenchFile) -> str:
    """Device, driver, versions and commit in one line."""
    machine = made.machine
    words = [str(machine["device"]), f"{machine.get('threads')} threads" if machine["kind"] == "cpu" else ""]
    words += [f"driver {machine['driver']}" if machine.get("driver") else ""]
    words += [f"{name} {made.versions[name]}" for name in ("torch", "triton", "hvlite") if name in made.versions]
    words += [f"commit {made.commit}" if made.commit else "", made.made]
    return ", ".join(word for word in words if word)


def part_rows(results: Sequence[Result]) -> list[Row]:
    """The table of a part, its header first: case, time, memory, then every value that one of them has."""
    rows = [_cells(result) for result in results]
    columns = list(dict.fromkeys(name for row in rows for name in row))
    used = [name for name in columns if any(row.get(name, "") for row in rows)]
    return [[_heading(name) for name in used], *([row.get(name, "") for name in used] for row in rows)]


def _cells(result: Result) -> dict[str, str]:
    cells = {"case": result.case}
    if result.seconds:
        cells |= {"time": shown("_s", result.seconds.median), "spread": _spread(result.seconds)}
    for name, value in vars(result.peaks).items() if result.peaks else ():
        cells[f"peak {name}"] = "" if value is None else shown(name, value)
    if result.streamed_bytes is not None:
        cells["streamed"] = shown("_bytes", result.streamed_bytes)
    return cells | {name: shown(name, value) for name, value in result.values.items()}


def _spread(seconds: Seconds) -> str:
    return f"{shown('_s', seconds.least)} to {shown('_s', seconds.most)}, {seconds.runs} runs"


def _heading(name: str) -> str:
    if name == "tflop_per_s":
        return "TFLOP/s"
    for suffix in ("_bytes_per_s", "_bytes", "_s", "_share", "_ratio", "_tops", "_w", "_db"):
        name = name.removesuffix(suffix)
    return name.replace("_", " ")


def shown(name: str, value: Plain) -> str:
    """A value with its unit, which its name ends in."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, str):
        return value
    for suffix, show in _UNITS.items():
        if name.endswith(suffix):
            return show(value)
    return f"{value:,}" if isinstance(value, int) else f"{value:.6g}"


def _bytes(value: float) -> str:
    return f"{value / 2**30:.2f} GiB" if value >= 2**29 else f"{value / 2**20:.1f} MiB"


def _seconds(value: float) -> str:
    return f"{value * 1e3:.3g} ms" if value < 0.1 else f"{value:.3g} s"


_UNITS: dict[str, Callable[[float], str]] = {
    "_bytes_per_s": lambda value: f"{value / 1e9:.2f} GB/s",
    "flop_per_s": lambda value: f"{value:.3g}",
    "_bytes": _bytes,
    "_s": _seconds,
    "_share": lambda value: f"{value:.1%}",
    "_ratio": lambda value: f"{value:.2f}x",
    "_tops": lambda value: f"{value:.0f} TOPS" if value >= 10 else f"{value:.2g} TOPS",
    "_db": lambda value: f"{value:.1f} dB",
    "_w": lambda value: f"{value:.0f} W",
}


def aligned(rows: Sequence[Row]) -> list[str]:
    """Rows as lines, columns under each other; the first one to the left, the others to the right."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return [_line(row, widths).rstrip() for row in rows]


def _line(row: Row, widths: Sequence[int]) -> str:
    (first, wide), *rest = zip(row, widths, strict=True)
    return "  ".join([first.ljust(wide), *(cell.rjust(width) for cell, width in rest)])


def markdown(rows: Sequence[Row]) -> list[str]:
    """Rows as a Markdown table, the first its header."""
    header, *body = rows
    line = "|---" + "|--:" * (len(header) - 1) + "|"
    return [f"| {' | '.join(header)} |", line, *(f"| {' | '.join(row)} |" for row in body)]


def replaced_between(text: str, begin: str, end: str, inner: str) -> str:
    """A page with what is between the two marks replaced by `inner`, on lines of its own."""
    before, _, rest = text.partition(begin)
    _, _, after = rest.partition(end)
    return f"{before}{begin}\n{inner}\n{end}{after}"
