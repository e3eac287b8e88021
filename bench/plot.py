"""Draws a run: a panel per workload, with a bar per contender or per optimizer, and the roof."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from math import nan
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

from matplotlib import pyplot
from matplotlib.axes import Axes

from bench.contenders import CONTENDERS
from bench.optimizers import OPTIMIZERS
from bench.overview import cell
from bench.report import Run, duration, ratio_text
from bench.runner import Result
from bench.workloads import OVERVIEW, WORKLOADS, Workload, overview_name


def draw(run: Run, path: Path) -> None:
    """Write the plot of a run of Adam as a picture."""
    panels = list(run.by_workload())
    with _picture(run, path, len(panels), 3.2) as axes:
        for axis, (workload, results) in zip(axes, panels, strict=True):
            _panel(axis, workload, [r for r in results if r.rounds])


def draw_overview(run: Run, path: Path) -> None:
    """Write the plot of all optimizers as a picture."""
    with _picture(run, path, len(OVERVIEW), 5) as axes:
        for axis, shapes in zip(axes, OVERVIEW, strict=True):
            _overview_panel(axis, run, shapes)


@contextmanager
def _picture(run: Run, path: Path, panels: int, width: float) -> Iterator[list[Axes]]:
    figure, axes = pyplot.subplots(
        1, panels, figsize=(width * panels, 4.2), squeeze=False, layout="constrained"
    )
    yield list(axes[0])
    axes[0][0].set_ylabel("time per step, microseconds (less is better)")
    facts = run.environment
    figure.suptitle(
        f"{facts['cpu']}, {facts['threads']} threads, cyoptim {facts['cyoptim']}", fontsize=10
    )
    figure.savefig(path, dpi=150)
    pyplot.close(figure)


def _panel(axis: Axes, workload: Workload, results: list[Result]) -> None:
    bars = [r for r in results if r.contender != "roof"]
    roof = [r.best for r in results if r.contender == "roof"]
    drawn = axis.bar(
        [r.contender for r in bars],
        [r.best * 1e6 for r in bars],
        color=[CONTENDERS[r.contender].color for r in bars],
    )
    axis.bar_label(drawn, [duration(r.best) for r in bars], fontsize=7, rotation=90, padding=2)
    if roof:
        axis.axhline(roof[0] * 1e6, color=CONTENDERS["roof"].color, linestyle="--", label="roof")
        axis.legend(loc="upper left", fontsize=8)
    _finish(axis, workload.title.replace(", ", "\n", 1), 0.3)


def _overview_panel(axis: Axes, run: Run, shapes: str) -> None:
    """A pair of bars per optimizer: what torch takes is labelled with the times of cyoptim."""
    cells = {name: cell(run, name, shapes) for name in OPTIMIZERS}
    cells = {name: found for name, found in cells.items() if found.time}
    places = range(len(cells))
    for shift, label, color, times in (
        (-0.2, "cyoptim", "cyoptim", [c.time for c in cells.values()]),
        (0.2, "torch's best mode", "torch-fused", [c.torch_time for c in cells.values()]),
    ):
        bars = axis.bar(
            [place + shift for place in places],
            [(time or nan) * 1e6 for time in times],
            width=0.4,
            label=label,
            color=CONTENDERS[color].color,
        )
    if cells:
        ratios = [f"x {ratio_text(c.torch)}" if c.torch else "" for c in cells.values()]
        axis.bar_label(bars, ratios, fontsize=7, rotation=90, padding=2)
    roofs = [(c.roof_time or nan) * 1e6 for c in cells.values()]
    color = CONTENDERS["roof"].color
    axis.scatter([p - 0.2 for p in places], roofs, marker="_", s=120, color=color, label="roof")
    axis.set_xticks(places, cells)
    axis.legend(loc="upper left", fontsize=8)
    _finish(axis, f"{WORKLOADS[overview_name('Adam', shapes)].size} float32", 0.4)


def _finish(axis: Axes, title: str, room: float) -> None:
    """A logarithmic axis, with room for the labels above the bars."""
    axis.set_yscale("log")
    low, high = axis.get_ylim()
    axis.set_ylim(low, high * (high / low) ** room)
    axis.set_title(title, fontsize=9)
    axis.tick_params(axis="x", labelrotation=90)
