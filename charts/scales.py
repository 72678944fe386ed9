"""Where the axes of a chart begin and end, and what is written beside them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from .chart import Chart

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LOG_MARGIN = 0.08  # of the length of the values
LEAST_MARGIN, LEAST_RANGE = 1.1, 2.0  # factors: what is nearly the same should not look far apart
LINEAR_MARGIN, ROOM_FOR_NAMES = 1.06, 1.2  # factors, above the highest value
LEAST_GROUPS = 2  # whose room fewer bars take
TICKS, FEW_DECADES = 6, 1000.0


def set_scales(axes: Axes, chart: Chart) -> None:
    """Limits and ticks for what is in the chart."""
    across, upward = chart.values()
    if chart.log_x:
        _set_log_x(axes, log_limits(across))
    elif chart.spans:
        ends = [end for span in chart.spans for end in (span.start, span.end)]
        axes.set_xlim(min(*across, *ends), max(*across, *ends))
    elif any(each.shape == "bars" for each in chart.series):
        middle, half = max(across) / 2, max(max(across) + 1, LEAST_GROUPS) / 2
        axes.set_xlim(middle - half, middle + half)
    if chart.log_y:
        _set_log_y(axes, log_limits(upward))
    else:
        axes.set_ylim(0, (max(upward) or 1.0) * (ROOM_FOR_NAMES if chart.named else LINEAR_MARGIN))
    _write_ticks(axes, chart)


def log_limits(values: Sequence[float]) -> tuple[float, float]:
    """A little below the least and a little above the largest of some values above zero, not whole decades."""
    least, most = min(values), max(values)
    margin = max((most / least) ** LOG_MARGIN, LEAST_MARGIN, (LEAST_RANGE * least / most) ** 0.5)
    return least / margin, most * margin


def log_ticks(low: float, high: float) -> list[float]:
    """Round values between two limits: powers of ten, with 2 and 5 times them where these are few.

    Within a decade they are equally far from one another, as on a linear axis.
    """
    from matplotlib.ticker import LogLocator, MaxNLocator

    if high / low < 10:
        ticks = MaxNLocator(TICKS, steps=[1, 2, 5, 10]).tick_values(low, high)
    else:
        ticks = LogLocator(subs=(1.0, 2.0, 5.0) if high / low < FEW_DECADES else (1.0,)).tick_values(low, high)
    return [float(tick) for tick in ticks if low <= tick <= high]


def _set_log_x(axes: Axes, limits: tuple[float, float]) -> None:
    axes.set_xscale("log")
    axes.set_xlim(limits)
    axes.set_xticks(log_ticks(*limits))
    axes.set_xticks([], minor=True)


def _set_log_y(axes: Axes, limits: tuple[float, float]) -> None:
    axes.set_yscale("log")
    axes.set_ylim(limits)
    axes.set_yticks(log_ticks(*limits))
    axes.set_yticks([], minor=True)


def _write_ticks(axes: Axes, chart: Chart) -> None:
    from matplotlib.ticker import FuncFormatter

    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.6g}"))
    if chart.ticks:
        axes.set_xticks([place for place, _ in chart.ticks], [name for _, name in chart.ticks])
        axes.tick_params(axis="x", length=0)
        axes.grid(visible=False, axis="x")
