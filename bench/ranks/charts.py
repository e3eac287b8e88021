"""Draws a run: the time of each contender, and the model beside and beyond what was measured."""

from __future__ import annotations

from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator, NullFormatter

from bench.picture import picture
from bench.ranks.checks import BASE, Compared, compared, machine_of
from bench.ranks.contenders import REPLICATED, SHARDED, STEPS
from bench.ranks.model import WAYS, seconds
from bench.ranks.study import Study, Timed, processes
from bench.ranks.workloads import title, workload_of
from bench.report import Run, duration, ratio_text

SPEEDS = {"10 Gbit/s": 1.25e9, "100 Gbit/s": 12.5e9}
"""Networks of the model, in bytes per second each way."""

SIZES = {"16.8 million parameters": 1 << 24, "a billion parameters": 1 << 30}
RANKS = [2**k for k in range(11)]
COLORS = dict(zip(WAYS, ("#c44e52", "#dd8452", "#4c72b0"), strict=True))


def draw(study: Study, path: Path) -> None:
    """Write two pictures: one of this name, and one that ends in ``-model``."""
    draw_times(study, path)
    draw_model(study, path.with_name(f"{path.stem}-model{path.suffix}"))


def draw_times(study: Study, path: Path) -> None:
    """A panel for each library and workload, in two processes."""
    places = [place for place in study.places() if place[1] == BASE]
    panels = [(place, study.of(*place)) for place in places]
    panels = [(place, found) for place, found in panels if {*found} & {*STEPS}]
    if not panels:
        return
    most = max(sum(name in STEPS for name in found) for _, found in panels)
    columns = min(len(panels), 2)
    grid, size = (-(-len(panels) // columns), columns), (5.6, 1.2 + most / 4)
    about = f"{processes(BASE)}; x: over an Allreduce and a full step. "
    with picture(Run(study.environment, []), path, grid, size, about) as rows:
        axes = [axis for row in rows for axis in row]
        for axis in axes[len(panels) :]:
            axis.set_visible(False)
        for axis, ((library, _, workload), found) in zip(axes, panels, strict=False):
            _times_panel(axis, found)
            axis.set_title(f"{library}, {title(workload_of(workload))}", fontsize=9)


def _times_panel(axis: Axes, found: dict[str, Timed]) -> None:
    """A bar per contender, labelled with its time, over that of an Allreduce and a full step."""
    names = [name for name in STEPS if name in found]
    base = found.get(REPLICATED)
    for row, name in enumerate(names):
        best = found[name].best
        bar = axis.barh(row, best * 1e3, 0.75, color=STEPS[name].color)
        label = duration(best) + (f", x {ratio_text(best / base.best)}" if base else "")
        axis.bar_label(bar, [label], fontsize=7, padding=2)
    axis.set_yticks(range(len(names)), names, fontsize=8)
    axis.set_ylim(len(names) - 0.4, -0.6)
    axis.margins(x=0.45)
    axis.set_xlabel("ms per step (less is better)", fontsize=8)


# --- the model ------------------------------------------------------------------------------------


def draw_model(study: Study, path: Path) -> None:
    """What was measured beside the model, and the model of networks."""
    machine, rows = machine_of(study), [*compared(study)]
    if machine is None:
        return
    about = "Middle and right: a model, one process for each network card. Left: "
    grid = 1, 1 + len(SIZES)
    with picture(Run(study.environment, []), path, grid, (5.4, 4.6), about) as panels:
        _measured_panel(panels[0][0], rows)
        for axis, (name, n) in zip(panels[0][1:], SIZES.items(), strict=True):
            for speed_name, speed in SPEEDS.items():
                network = machine.network(speed_name, speed)
                style = "-" if speed_name == next(iter(SPEEDS)) else "--"
                for way, color in COLORS.items():
                    times = [seconds(way, n, ranks, network) * 1e3 for ranks in RANKS]
                    axis.plot(RANKS, times, style, color=color, label=f"{way}, {speed_name}")
            _axes_of_processes(axis)
            axis.set_title(f"model, not measured: {name}", fontsize=9)


def _measured_panel(axis: Axes, rows: list[Compared]) -> None:
    """Points are measured, lines are the model of this machine."""
    marks = dict(zip(dict.fromkeys(row.library for row in rows), "os^", strict=False))
    names = {SHARDED: "Sharded", REPLICATED: "Allreduce and full step"}
    for library, mark in marks.items():
        for contender, way in names.items():
            found = [r for r in rows if (r.library, r.contender) == (library, contender)]
            ranks, color = [r.ranks for r in found], COLORS[way]
            measured = [r.measured * 1e3 for r in found]
            label = f"{way}, {library}"
            axis.plot(ranks, measured, mark, color=color, markersize=5, label=label)
            axis.plot(ranks, [r.model * 1e3 for r in found], ":", color=color)
    _axes_of_processes(axis)
    axis.set_title("one machine, measured; dotted: the model", fontsize=9)


def _axes_of_processes(axis: Axes) -> None:
    axis.set_xscale("log", base=2)
    axis.set_yscale("log")
    axis.xaxis.set_major_formatter("{x:g}")
    axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.yaxis.set_major_formatter("{x:g}")
    axis.yaxis.set_minor_formatter(NullFormatter())
    axis.margins(y=0.3)
    axis.legend(fontsize=6, ncols=2, loc="upper left", columnspacing=1)
    axis.set_xlabel("processes", fontsize=8)
    axis.set_ylabel("ms per step (less is better)", fontsize=8)
    axis.grid(alpha=0.2)
