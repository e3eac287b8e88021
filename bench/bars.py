"""Draws a run: a panel per workload, with a bar per contender or per optimizer."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.patches import Patch

from bench.contenders import CONTENDERS
from bench.formats import LEAST_SCALED
from bench.optimizers import OPTIMIZERS
from bench.picture import picture
from bench.report import Run, duration, ratio_text
from bench.runner import Result
from bench.tables import precision
from bench.tables.optimizers import Cell, cell, dtype
from bench.workloads import OVERVIEW, Workload, named


def draw(run: Run, path: Path) -> None:
    """Write the plot of a run of Adam as a picture."""
    panels = list(run.by_workload())
    with _picture(run, path, len(panels), 3.2) as axes:
        for axis, (workload, results) in zip(axes, panels, strict=True):
            _panel(axis, workload, [r for r in results if r.rounds])


def draw_overview(run: Run, path: Path) -> None:
    """Write the plot of all optimizers as a picture."""
    panels = {
        shapes: {name: c for name in OPTIMIZERS if (c := cell(run, name, shapes)).time}
        for shapes in OVERVIEW
    }
    timed = {shapes: cells for shapes, cells in panels.items() if cells}
    height = 1.5 + max(map(len, timed.values()), default=0) / 4
    with picture(run, path, (1, len(timed)), (4.6, height)) as rows:
        for axis, (shapes, cells) in zip(rows[0], timed.items(), strict=True):
            _overview_panel(axis, cells)
            axis.set_title(f"{named(shapes).size} {dtype(run)}", fontsize=10)
            axis.set_xlabel("microseconds per step (less is better)\non a logarithmic axis")


@contextmanager
def _picture(run: Run, path: Path, panels: int, width: float) -> Iterator[list[Axes]]:
    with picture(run, path, (1, panels), (width, 4.2)) as axes:
        yield axes[0]
        axes[0][0].set_ylabel("time per step, microseconds (less is better)")


def _panel(axis: Axes, workload: Workload, results: list[Result]) -> None:
    """A bar per contender, on a linear axis: a bar twice as long is twice the time."""
    bars = [r for r in results if r.contender != "roof"]
    roof = [r.best for r in results if r.contender == "roof"]
    drawn = axis.bar(
        [r.contender for r in bars],
        [r.best * 1e6 for r in bars],
        color=[CONTENDERS[r.contender].color for r in bars],
    )
    axis.bar_label(drawn, [duration(r.best) for r in bars], fontsize=7, rotation=90, padding=2)
    if roof:
        line = {"color": CONTENDERS["roof"].color, "linestyle": "--", "linewidth": 1}
        axis.axhline(roof[0] * 1e6, **line, label="roof", zorder=0)
        axis.legend(loc="upper left", fontsize=8)
    axis.margins(y=0.3)
    axis.set_title(workload.title.replace(", ", "\n", 1), fontsize=9)
    axis.tick_params(axis="x", labelrotation=90)


def _overview_panel(axis: Axes, cells: dict[str, Cell]) -> None:
    """A pair of bars per optimizer: the source's bar is labelled with its ratio to cyoptim."""
    colors = [CONTENDERS[name].color for name in ("cyoptim", "torch-fused", "roof")]
    for place, found in enumerate(cells.values()):
        axis.barh(place - 0.2, _microseconds(found.time), 0.4, color=colors[0])
        if found.source:
            bar = axis.barh(place + 0.2, _microseconds(found.source_time), 0.4, color=colors[1])
            axis.bar_label(bar, [f"x {ratio_text(found.source)}"], fontsize=7, padding=2)
        if found.roof_time:
            axis.vlines(_microseconds(found.roof_time), place - 0.4, place, color=colors[2])
    axis.set_yticks(range(len(cells)), list(cells), fontsize=8)
    axis.set_ylim(len(cells) - 0.4, -0.6)
    axis.set_xscale("log")
    low, high = axis.get_xlim()
    axis.set_xlim(low, high * (high / low) ** 0.2)  # room for the labels
    names = ("cyoptim", "torch's best mode, or the authors' class", "roof")
    place = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.07), "fontsize": 8}
    axis.legend([Patch(color=color) for color in colors], names, **place)


def _microseconds(seconds: float | None) -> float:
    return (seconds or 0) * 1e6


def draw_precision(run: Run, path: Path) -> None:
    """Write the plot of the formats as a picture: a panel per size, threads and speed of memory."""
    panels = [place for place in precision.places(run) if place.workload.elements >= LEAST_SCALED]
    names = [name for name in precision.ALL if any(name in p.times for p in panels)]
    with picture(run, path, (1, len(panels)), (3.6, 1.5 + len(names) / 4)) as rows:
        for axis, place in zip(rows[0], panels, strict=True):
            _precision_panel(axis, place, names)
            axis.set_title(f"{place.workload.size}\n{place.title}", fontsize=9)
            axis.set_xlabel("ns per element (less is better)\non a logarithmic axis")
        for axis in rows[0][1:]:
            axis.set_yticklabels([])


def _precision_panel(axis: Axes, place: precision.Place, names: list[str]) -> None:
    """A bar per contender, labelled with its ratio to float32, which is a line."""
    for row, name in enumerate(names):
        if time := place.times.get(name):
            color = CONTENDERS[name].color
            bar = axis.barh(row, time / place.workload.elements * 1e9, 0.8, color=color)
            label = ratio_text(place.ratio(name))
            axis.bar_label(bar, [label and f"x {label}"], fontsize=7, padding=2)
    if base := place.times.get(precision.BASE):
        axis.axvline(base / place.workload.elements * 1e9, color="#222222", linewidth=0.6)
    axis.set_yticks(range(len(names)), names, fontsize=8)
    axis.set_ylim(len(names) - 0.4, -0.6)
    axis.set_xscale("log")
    axis.xaxis.set_major_formatter("{x:g}")
    low, high = axis.get_xlim()
    axis.set_xlim(low, high * (high / low) ** 0.2)  # room for the labels
