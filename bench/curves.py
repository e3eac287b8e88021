"""Draws lines of a run: time against size, a figure per context, and bandwidth and speed-up against
threads, a figure per operation. Each contender is a line; the roof is dashed."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.ticker import NullLocator

from bench.contenders import CONTENDERS
from bench.contexts import CONTEXTS
from bench.picture import picture
from bench.report import Run
from bench.tables import scaling, sizes
from bench.tables.sizes import Series
from bench.workloads import named


def draw_sizes(run: Run, path: Path) -> None:
    """A figure per context: a column per optimizer and type, a row per series and measure."""
    contexts = list(dict.fromkeys(w.context for w in run.workloads()))
    for context in contexts:
        results = [r for r in run.results if named(r.workload).context == context]
        part = Run(run.environment, results)
        title = f"Steps {CONTEXTS[context].title}. "
        _draw_context(part, _path(path, context, len(contexts)), title)


def _draw_context(part: Run, path: Path, about: str) -> None:
    kinds = sizes.kinds(part)
    rows = [
        (series, measure)
        for series in sizes.SERIES
        for measure in part.measures
        if any(len(series.of(kind)) > 1 for _, kind in kinds)
    ]
    if not rows:
        sys.exit("no plot: it takes two sizes to draw a line")
    with picture(part, path, (len(rows), len(kinds)), (6, 5), about) as axes:
        for line, (series, measure) in zip(axes, rows, strict=True):
            for axis, (kind, timed) in zip(line, kinds, strict=True):
                _sizes_panel(axis, timed, series, measure)
                axis.set_title(f"{kind.partition(', between')[0]}, {series.title}", fontsize=9)
                axis.set_ylabel(f"{measure} time per element, ns (less is better)")


def _sizes_panel(axis: Axes, part: Run, series: Series, measure: str) -> None:
    times = part.quartiles(measure)
    workloads = series.of(part)
    for name in part.contenders([workload.name for workload in workloads]):
        points = [
            (series.value(workload), time / workload.elements * 1e9)
            for workload in workloads
            if (time := times.get((workload.name, name)))
        ]
        _line(axis, name, points)
    axis.set_xscale("log")
    axis.set_yscale("log")
    axis.set_xlabel(f"number of {series.grows}")
    axis.grid(which="major", linewidth=0.3)


def draw_scaling(run: Run, path: Path) -> None:
    """A figure per operation: a column per workload, a row for the bandwidth and the speed-up."""
    found = scaling.series(run)
    operations = list(dict.fromkeys(w.optimizer for w in found))
    for operation in operations:
        part = [w for w in found if w.optimizer == operation]
        where = _path(path, operation, len(operations))
        with picture(run, where, (2, len(part)), (3.2, 3.4), f"{operation}. ") as (rates, speedups):
            for column, workload in enumerate(part):
                points = found[workload]
                _scaling_panels(rates[column], speedups[column], points)
                rates[column].set_title(f"{workload.size} {workload.dtype}", fontsize=9)
            rates[0].set_ylabel("GB/s (more is better)")
            speedups[0].set_ylabel("times as fast as on one thread")


def _scaling_panels(
    rates: Axes, speedups: Axes, points: dict[tuple[str, int], scaling.Point]
) -> None:
    counts = sorted({count for _, count in points})
    for name in dict.fromkeys(name for name, _ in points):
        mine = {count: points[name, count] for count in counts if (name, count) in points}
        _line(rates, name, [(count, p.rate / 1e9) for count, p in mine.items()])
        _line(speedups, name, [(count, p.speedup) for count, p in mine.items() if p.speedup])
    speedups.plot(counts, counts, color="#bbbbbb", linewidth=0.6)  # as many times as threads
    for axis in (rates, speedups):
        axis.set_xscale("log", base=2)
        axis.set_xticks(counts, map(str, counts))
        axis.xaxis.set_minor_locator(NullLocator())
        axis.set_ylim(bottom=0)
        axis.set_xlabel("threads")
        axis.grid(which="major", linewidth=0.3)


def _line(axis: Axes, name: str, points: Sequence[tuple[float, float]]) -> None:
    style: dict[str, Any] = (
        {"linestyle": "--"} if name == "roof" else {"marker": ".", "markersize": 4}
    )
    if points:
        color = CONTENDERS[name].color
        axis.plot(*zip(*points, strict=True), label=name, color=color, linewidth=1.2, **style)


def _path(path: Path, part: str, parts: int) -> Path:
    """The path of a figure; of several, each has its own name."""
    return path.with_stem(f"{path.stem}-{part}") if parts > 1 else path
