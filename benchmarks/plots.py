"""The plots of a run of `hvlite bench`, as PNG files beside its JSON: what the results allow."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import pairwise
from pathlib import Path

from ..charts.chart import Chart, Point, Series, Span
from ..charts.drawing import draw_chart
from ..files import write_atomic
from .results import BenchFile, Result, Timeline

MIB, GIB = 1 << 20, 1 << 30
ROOFS = {"memory_bytes_per_s": "memory", "link_bytes_per_s": "link to the card", "disk_bytes_per_s": "disk"}
MEMORY = {"rss_bytes": "host", "allocated_bytes": "device, allocated", "process_bytes": "device, as the driver says"}
ROOF_NAMED_AT = 0.8  # of the best rate: where on its slope a roof has its name
MOST_CASES = 8  # whose tokens are written along an axis


def write_plots(made: BenchFile, output: Path) -> list[Path]:
    """Draw what there is, beside `output`: <its name>.<plot>.png. Returns the files. Raises DiskError."""
    paths = []
    for name, chart in charts_of(made):
        if not chart.empty:
            paths.append(output.with_name(f"{output.stem}.{name}.png"))
            write_atomic(paths[-1], draw_chart(chart))
    return paths


def charts_of(made: BenchFile) -> Iterator[tuple[str, Chart]]:
    """Every plot by its name; those without a point are not drawn."""
    yield "roofline", roofline(made)
    yield "tokens", step_time(made)
    yield "streamed", streamed(made)
    for index, timeline in enumerate(made.timelines):
        yield f"memory-{index}", memory(made, timeline)


def roofline(made: BenchFile) -> Chart:
    """Work done a second over work to do a byte; the roofs are the rates of this machine, as measured."""
    found = {
        tier: [result for result in results if _has(result, "flop_per_byte") and _has(result, "tflop_per_s")]
        for tier, results in _by_tier(made).items()
    }
    best = _best_of_cases(result for results in found.values() for result in results)
    series = tuple(
        Series(
            name=tier,
            points=tuple(_work(result) for result in results),
            shape="dots",
            labels=tuple(_case(result) if result is best[_case(result)] else "" for result in results),
        )
        for tier, results in found.items()
    )
    return Chart(
        title="Roofline of a denoising step",
        note=_conditions(made),
        x_name="work for each byte of weights (FLOP/byte)",
        y_name="work done (TFLOP/s)",
        series=(*series, *_roofs(made, [point for each in series for point in each.points])),
        log_x=True,
        log_y=True,
    )


def _best_of_cases(results: Iterable[Result]) -> dict[str, Result]:
    """The fastest of each size: that point has the label."""
    best: dict[str, Result] = {}
    for result in results:
        if _case(result) not in best or _work(result)[1] > _work(best[_case(result)])[1]:
            best[_case(result)] = result
    return best


def _roofs(made: BenchFile, points: list[Point]) -> Iterator[Series]:
    """For each measured rate of moving bytes the line that no point fed through it can be above, up to the best."""
    if not points:
        return
    best, low = max(y for _, y in points), min(y for _, y in points) / 1.5
    first, last = max(x for x, _ in points), 2 * max(x for x, _ in points)
    for key, name in ROOFS.items():
        rates = [_value(result, key) for result in made.results if _has(result, key)]
        if rates:
            knee = best / (max(rates) / 1e12)
            first, last = min(first, knee), max(last, 2 * knee)
            slope = tuple((knee * height / best, height) for height in (low, best * ROOF_NAMED_AT, best))
            yield Series(points=slope, shape="dashes", labels=("", f"{name} {max(rates) / 1e9:.3g} GB/s"))
    level = tuple((x, best) for x in (first, (first * last) ** 0.5, last))
    yield Series(points=level, shape="dashes", labels=("", f"best measured {best:.3g} TFLOP/s"))


def step_time(made: BenchFile) -> Chart:
    """Seconds of a denoising step over its tokens."""
    tokens = {_value(result, "tokens"): _case(result) for results in _by_tier(made).values() for result in results}
    ticks = tuple((count, f"{count:,.0f}\n{case}") for count, case in sorted(tokens.items()))
    return Chart(
        title="Time of a denoising step",
        note=f"{_conditions(made)}; medians",
        x_name="tokens, and the size that has them",
        y_name="time of a step (s)",
        series=tuple(_step_times(tier, results) for tier, results in _by_tier(made).items()),
        log_x=True,
        log_y=True,
        ticks=ticks if len(ticks) <= MOST_CASES else (),
    )


def _step_times(tier: str, results: list[Result]) -> Series:
    ordered = sorted(results, key=lambda result: _value(result, "tokens"))
    points = tuple((_value(result, "tokens"), _seconds(result)) for result in ordered)
    return Series(name=tier, points=points)


def streamed(made: BenchFile) -> Chart:
    """Steps with streamed blocks beside steps with resident ones, case by case."""
    cases = list(dict.fromkeys(_case(result) for result in made.part("stream")))
    series = tuple(
        Series(
            name=tier,
            points=tuple((float(cases.index(_case(result))), _seconds(result)) for result in results),
            shape="bars",
            labels=tuple(f"{_seconds(result):#.3g}".rstrip(".") for result in results),
            ranges=tuple(_range(result) for result in results),
        )
        for tier, results in _by_tier(made).items()
    )
    return Chart(
        title="Streamed blocks against resident ones",
        note=f"{_conditions(made)}; median, least and most",
        x_name="height x width x frames",
        y_name="time of a step (s)",
        series=series,
        ticks=tuple((float(index), case) for index, case in enumerate(cases)),
    )


def memory(made: BenchFile, timeline: Timeline) -> Chart:
    """Host and device memory over time; each stage a span."""
    samples = timeline.samples
    most = max((value for each in samples for kind in MEMORY if (value := getattr(each, kind))), default=0)
    unit, name = (GIB, "GiB") if most >= 4 * GIB else (MIB, "MiB")
    found = {
        kind: tuple((each.at_s, value / unit) for each in samples if (value := getattr(each, kind)) is not None)
        for kind in MEMORY
    }
    return Chart(
        title=f"Memory: {timeline.case}",
        note=_conditions(made),
        x_name="time (s)",
        y_name=f"memory ({name})",
        series=tuple(Series(name=MEMORY[kind], points=each, shape="line") for kind, each in found.items() if each),
        spans=tuple(_stages(timeline)),
    )


def _stages(timeline: Timeline) -> Iterator[Span]:
    """From the first sample of each stage to that of the next."""
    starts: dict[str, float] = {}
    for sample in timeline.samples:
        starts.setdefault(sample.stage, sample.at_s)
    ends = [*starts.items(), ("", max((sample.at_s for sample in timeline.samples), default=0.0))]
    for (name, start), (_, end) in pairwise(ends):
        yield Span(start=start, end=end, name=f"{name}\n{end - start:.3g} s")


def _conditions(made: BenchFile) -> str:
    versions = ", ".join(f"{name} {made.versions[name]}" for name in ("hvlite", "torch") if name in made.versions)
    return ", ".join(part for part in (str(made.machine.get("device", "")), versions, made.made) if part)


def _by_tier(made: BenchFile) -> dict[str, list[Result]]:
    found: dict[str, list[Result]] = {}
    for result in made.part("stream"):
        if result.seconds and _has(result, "tokens"):
            found.setdefault(str(result.settings.get("tier")), []).append(result)
    return found


def _case(result: Result) -> str:
    """The size without the tier."""
    return result.case.rpartition(" ")[0]


def _seconds(result: Result) -> float:
    assert result.seconds
    return result.seconds.median


def _range(result: Result) -> tuple[float, float]:
    assert result.seconds
    return result.seconds.least, result.seconds.most


def _work(result: Result) -> Point:
    return _value(result, "flop_per_byte"), _value(result, "tflop_per_s")


def _value(result: Result, name: str) -> float:
    value = result.values[name]
    assert isinstance(value, int | float)
    return float(value)


def _has(result: Result, name: str) -> bool:
    value = result.values.get(name)
    return isinstance(value, int | float) and value > 0
