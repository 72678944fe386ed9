"""The plots of a run of `hvlite bench`, as PNG files beside its JSON: what the results allow."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from ..files import write_atomic
from .charts import Chart, Point, Series
from .results import BenchFile, Result, Timeline

MIB = 1 << 20
ROOFS = {"memory_bytes_per_s": "memory", "link_bytes_per_s": "link to the card", "disk_bytes_per_s": "disk"}


def write_plots(made: BenchFile, output: Path) -> list[Path]:
    """Draw what there is, beside `output`: <its name>.<plot>.png. Returns the files. Raises DiskError."""
    paths = []
    for name, chart in charts_of(made):
        png = chart.draw()
        if png is not None:
            paths.append(output.with_name(f"{output.stem}.{name}.png"))
            write_atomic(paths[-1], png)
    return paths


def charts_of(made: BenchFile) -> Iterator[tuple[str, Chart]]:
    """Every plot by its name; those without a point are not drawn."""
    yield "roofline", roofline(made)
    yield "tokens", step_time(made)
    yield "streamed", streamed(made)
    for index, timeline in enumerate(made.timelines):
        yield f"memory-{index}", memory(timeline)


def roofline(made: BenchFile) -> Chart:
    """Work done a second over work to do a byte; the roofs are the rates of this machine, as measured."""
    points = [
        (result.case, (_value(result, "flop_per_byte"), _value(result, "tflop_per_s")))
        for result in made.results
        if _has(result, "flop_per_byte") and _has(result, "tflop_per_s")
    ]
    series = [
        Series("measured", tuple(point for _, point in points), labels=tuple(case for case, _ in points)),
        *_roofs(made, [point for _, point in points]),
    ]
    return Chart("roofline", "flop a byte", "tflop/s", tuple(series if points else ()), log_x=True, log_y=True)


def _roofs(made: BenchFile, points: list[Point]) -> Iterator[Series]:
    """For each measured rate of moving bytes the line that no point fed through it can be above, up to the best."""
    if not points:
        return
    best = max(y for _, y in points)
    low, high = min(x for x, _ in points) / 3, max(x for x, _ in points) * 3
    for key, name in ROOFS.items():
        rates = [_value(result, key) for result in made.results if _has(result, key)]
        if rates:
            rate = max(rates) / 1e12
            knee = min(max(best / rate, low), high)
            ends = ((low, min(low * rate, best)), (knee, min(knee * rate, best)), (high, min(high * rate, best)))
            yield Series(name, ends, joined=True, dotted=False)


def step_time(made: BenchFile) -> Chart:
    """Seconds of a denoising step over its tokens."""
    series = [
        Series(tier, tuple(sorted(_tokens_point(result) for result in results)), joined=True)
        for tier, results in _by_tier(made).items()
    ]
    return Chart("step time against tokens", "tokens", "s a step", tuple(series), log_x=True, log_y=True)


def streamed(made: BenchFile) -> Chart:
    """Steps with streamed blocks beside steps with resident ones, case by case."""
    cases = list(dict.fromkeys(result.case.rpartition(" ")[0] for result in made.part("stream")))
    series = [
        Series(tier, tuple(_case_point(cases, result) for result in results))
        for tier, results in _by_tier(made).items()
    ]
    marks = ((0.0, ""), *((index + 0.5, name) for index, name in enumerate(cases)), (float(len(cases)), ""))
    return Chart("streamed against resident", "case", "s a step", tuple(series), marks=marks)


def _by_tier(made: BenchFile) -> dict[str, list[Result]]:
    found: dict[str, list[Result]] = {}
    for result in made.part("stream"):
        if result.seconds and _has(result, "tokens"):
            found.setdefault(str(result.settings.get("tier")), []).append(result)
    return found


def _tokens_point(result: Result) -> Point:
    assert result.seconds
    return _value(result, "tokens"), result.seconds.median


def _case_point(cases: list[str], result: Result) -> Point:
    assert result.seconds
    return cases.index(result.case.rpartition(" ")[0]) + 0.5, result.seconds.median


def memory(timeline: Timeline) -> Chart:
    """Host and device memory over time; a mark where each stage begins."""
    names = {"rss_bytes": "host", "allocated_bytes": "device, allocated", "process_bytes": "device, as the driver says"}
    series = [
        Series(names[kind], points, joined=True, dotted=False)
        for kind in names
        if (points := tuple(_memory_points(timeline, kind)))
    ]
    starts: dict[str, float] = {}
    for sample in timeline.samples:
        starts.setdefault(sample.stage, sample.at_s)
    marks = tuple((at, f"{name} {at:.1f} s") for name, at in starts.items())
    return Chart(f"memory: {timeline.case}", "time", "mib", tuple(series), marks=marks)


def _memory_points(timeline: Timeline, kind: str) -> Iterator[Point]:
    for sample in timeline.samples:
        value = getattr(sample, kind)
        if value is not None:
            yield sample.at_s, value / MIB


def _value(result: Result, name: str) -> float:
    value = result.values[name]
    assert isinstance(value, int | float)
    return float(value)


def _has(result: Result, name: str) -> bool:
    value = result.values.get(name)
    return isinstance(value, int | float) and value > 0
