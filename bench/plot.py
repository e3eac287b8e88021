"""Draws a run: a panel per workload, a bar per contender, the roof as a line."""

from __future__ import annotations

from pathlib import Path

import matplotlib

matplotlib.use("Agg")

from matplotlib import pyplot
from matplotlib.axes import Axes

from bench.contenders import CONTENDERS
from bench.report import Run, duration
from bench.runner import Result
from bench.workloads import Workload


def draw(run: Run, path: Path) -> None:
    """Write the plot of a run as a picture."""
    panels = list(run.by_workload())
    figure, axes = pyplot.subplots(
        1, len(panels), figsize=(3.2 * len(panels), 4.2), squeeze=False, layout="constrained"
    )
    for axis, (workload, results) in zip(axes[0], panels, strict=True):
        _panel(axis, workload, [r for r in results if r.rounds])
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
    axis.set_yscale("log")
    low, high = axis.get_ylim()
    axis.set_ylim(low, high * (high / low) ** 0.3)  # room for the labels
    axis.set_title(workload.title.replace(", ", "\n", 1), fontsize=9)
    axis.tick_params(axis="x", labelrotation=90)
