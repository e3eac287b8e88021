"""Draws the pictures as SVG inside the pages, in the colours of the theme, light or dark.

- ``{drawing} optimizer NAME``: the path of an optimizer, and its loss
- ``{drawing} schedule NAME``: the curve of a schedule, below its code
- ``{drawing} speed PAGE``: the times of the bench; on the index a selection
- ``{gallery} optimizer``, ``schedule`` or ``example``: small pictures of all, each a link to its
  page
"""

from __future__ import annotations

import functools
import html
import io
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import matplotlib
import numpy as np
from docutils import nodes
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

import example_cards
import optimizer_paths
import schedule_curves
import speed_bars

TEXT = "#012345"  # replaced by the colour of the surrounding text
BLUE, ORANGE = "#3b82d6", "#e07a2f"  # readable on white and on black
STYLE = {
    "svg.hashsalt": "cyoptim",
    "svg.fonttype": "path",
    "font.size": 9,
    "text.color": TEXT,
    "axes.edgecolor": TEXT,
    "axes.labelcolor": TEXT,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": TEXT,
    "ytick.color": TEXT,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "legend.frameon": False,
    "lines.linewidth": 1.5,
}


@contextmanager
def picture(width: float, height: float) -> Iterator[Figure]:
    with matplotlib.rc_context(STYLE):
        yield Figure(figsize=(width, height), layout="constrained")


def svg(figure: Figure, alt: str) -> str:
    """The figure as an element of a page."""
    file = io.StringIO()
    with matplotlib.rc_context(STYLE):
        figure.savefig(file, format="svg", metadata={"Date": None})
    text = file.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.S)
    text = re.sub(r'(<g) id="[^"]*"', r"\1", text)  # the same ids would occur in every picture
    text = re.sub(r'(<svg [^>]*?) width="[^"]*"', r"\1", text, count=1)
    text = re.sub(r'(<svg [^>]*?) height="[^"]*"', r"\1", text, count=1)
    label = html.escape(alt, quote=True)
    text = text.replace("<svg ", f'<svg role="img" aria-label="{label}" ', 1)
    return text.replace(TEXT, "currentColor")


# --- optimizers -----------------------------------------------------------------------------------

VIEW = ((-1.6, 1.6), (-0.5, 1.7))


def optimizer_drawing(name: str) -> str:
    recipe = optimizer_paths.recipe(name)
    path, plain = optimizer_paths.run(recipe), _plain()
    with picture(7.4, 3.1) as figure:
        left, right = figure.subplots(1, 2, width_ratios=(1.35, 1))
        _draw_valley(left)
        _draw_path(left, plain, TEXT, 0.45)
        _draw_path(left, path, BLUE)
        _draw_losses(right, name, path, plain)
    last = ", ".join(f"{x:.2f}" for x in path.points[-1])
    alt = (
        f"Left: the path of {name} over the contour lines of Rosenbrock's valley in "
        f"{optimizer_paths.STEPS} steps, from (-1.2, 1) to ({last}); the minimum is at (1, 1). "
        f"Right: its loss falls from {path.losses[0]:.3g} to {path.losses[-1]:.2g}, that of plain "
        f"SGD to {plain.losses[-1]:.2g}."
    )
    return svg(figure, alt)


def optimizer_thumbnail(name: str) -> str:
    with picture(2.3, 1.65) as figure:
        axes = figure.subplots()
        _draw_valley(axes)
        _draw_path(axes, optimizer_paths.run(optimizer_paths.recipe(name)), BLUE)
        axes.set(xticks=[], yticks=[])
    return svg(figure, f"The path of {name}")


@functools.cache
def _plain() -> optimizer_paths.Path:
    return optimizer_paths.run(optimizer_paths.Recipe(optimizer_paths.PLAIN))


def _draw_valley(axes: Axes) -> None:
    x, y = np.meshgrid(np.linspace(*VIEW[0], 90), np.linspace(*VIEW[1], 70))
    levels = np.geomspace(0.05, 60, 9)
    axes.contour(x, y, optimizer_paths.loss(x, y), levels, colors=TEXT, linewidths=0.6, alpha=0.35)
    axes.plot(*optimizer_paths.START, "o", mfc="none", mec=TEXT, markersize=7)
    axes.plot(*optimizer_paths.MINIMUM, "P", color=ORANGE, markersize=8, mec="none", zorder=5)
    axes.set(xlim=VIEW[0], ylim=VIEW[1], xticks=[-1, 0, 1], yticks=[0, 1])


def _draw_path(axes: Axes, path: optimizer_paths.Path, color: str, alpha: float = 1) -> None:
    axes.plot(*path.points.T, color=color, alpha=alpha, linewidth=1.3)
    axes.plot(*path.points[::10].T, ".", color=color, alpha=alpha, markersize=6, mew=0)
    if path.average is not None:
        axes.plot(*path.average.T, "--", color=ORANGE, linewidth=1.3)


def _draw_losses(
    axes: Axes, name: str, path: optimizer_paths.Path, plain: optimizer_paths.Path
) -> None:
    axes.semilogy(plain.losses, color=TEXT, alpha=0.45, label="plain SGD")
    axes.semilogy(np.maximum(path.losses, 1e-12), color=BLUE, label=name)
    axes.set(xlabel="step", ylim=(1e-8, 1e2), xlim=(0, optimizer_paths.STEPS), title="loss")
    axes.set_yticks([1e-8, 1e-6, 1e-4, 1e-2, 1, 1e2])
    axes.legend(loc="lower left", fontsize=8)


# --- schedules ------------------------------------------------------------------------------------


def schedule_drawing(name: str) -> str:
    curve = schedule_curves.run(name)
    with picture(7.0, 2.5) as figure:
        axes = figure.subplots()
        axes.plot(curve.rates, color=BLUE, label="learning rate")
        axes.set(xlabel="step", ylabel="learning rate", xlim=(0, schedule_curves.STEPS))
        axes.set_ylim(0, 1.08 * max(curve.rates))
        other = ("momentum", curve.momenta, "--") if curve.momenta else ("loss", curve.losses, ":")
        if other[1]:
            beside = axes.twinx()
            beside.plot(other[1], other[2], color=ORANGE)
            beside.set_ylabel(other[0], color=ORANGE)
            beside.spines["right"].set_visible(True)
            beside.set_ylim(0, 1.08 * max(other[1]))
    rates = curve.rates
    alt = (
        f"The learning rate of {name} over {schedule_curves.STEPS} steps: it begins at "
        f"{rates[0]:.3g}, is {max(rates):.3g} at most, {min(rates):.3g} at least, and ends at "
        f"{rates[-1]:.3g}."
    )
    return svg(figure, alt)


def schedule_thumbnail(name: str) -> str:
    with picture(2.3, 1.2) as figure:
        axes = figure.subplots()
        curve = schedule_curves.run(name)
        axes.plot(curve.rates, color=BLUE, linewidth=1.8)
        axes.set(xticks=[], yticks=[], ylim=(0, 1.08 * max(curve.rates)))
    return svg(figure, f"The curve of {name}")


# --- speed ----------------------------------------------------------------------------------------


def speed_drawing(page: str) -> str:
    _, times = speed_bars.measured()
    workloads, contenders = list(speed_bars.WORKLOADS), list(speed_bars.CONTENDERS)
    if page == "index":
        workloads, contenders = map(list, speed_bars.OVERVIEW)
    workloads = [name for name in workloads if name in times]
    rows = -(-len(workloads) // 2) if page != "index" else 1
    columns = 2 if page != "index" else len(workloads)
    with picture(7.4, rows * (0.55 + 0.22 * len(contenders))) as figure:
        grid = figure.subplots(rows, columns, sharey=True, squeeze=False).flatten()
        for axes, workload in zip(grid, workloads, strict=False):
            _draw_bars(axes, workload, contenders, times[workload])
        for axes in grid[len(workloads) :]:
            axes.set_visible(False)
    alt = "Time of one step of Adam. " + " ".join(
        f"{speed_bars.WORKLOADS[workload]}: "
        + ", ".join(
            f"{speed_bars.CONTENDERS[name]} {speed_bars.duration(times[workload][name])}"
            for name in contenders
            if name in times[workload]
        )
        + "."
        for workload in workloads
    )
    return svg(figure, alt)


def _draw_bars(axes: Axes, workload: str, contenders: list[str], times: dict[str, float]) -> None:
    for place, name in enumerate(contenders):
        if name in times:
            ours = name.startswith("cyoptim")
            axes.barh(
                place, times[name], 0.7, color=BLUE if ours else TEXT, alpha=1 if ours else 0.3
            )
            shown = f" {speed_bars.duration(times[name])}"
            axes.text(times[name], place, shown, va="center", size=8)
    slowest = max(times[name] for name in contenders if name in times)
    axes.set_xlim(0, slowest * 1.45)  # linear: a bar twice as long is twice the time
    axes.axvline(times["roof"], color=ORANGE, linestyle="--", linewidth=1)
    axes.set_title(speed_bars.WORKLOADS[workload], fontsize=9)
    axes.set_yticks(range(len(contenders)), [speed_bars.CONTENDERS[name] for name in contenders])
    axes.set_ylim(len(contenders) - 0.4, -0.6)
    axes.set_xticks([])
    axes.minorticks_off()
    axes.spines["bottom"].set_visible(False)
    axes.tick_params(left=False)


# --- directives -----------------------------------------------------------------------------------

DRAWINGS: dict[str, Callable[[str], str]] = {
    "optimizer": optimizer_drawing,
    "schedule": schedule_drawing,
    "speed": speed_drawing,
}
THUMBNAILS = {
    "optimizer": optimizer_thumbnail,
    "schedule": schedule_thumbnail,
    "example": example_cards.thumbnail,
}


SCHEDULES = schedule_curves.CODE.keys()


def is_drawn(kind: str, name: str) -> bool:
    """Whether there is code for the drawing; optimizers have their defaults."""
    return kind != "schedule" or name in SCHEDULES


class drawing(nodes.General, nodes.Element):
    """A picture that is part of the page."""


class Drawing(SphinxDirective):
    required_arguments = 2

    def run(self) -> list[nodes.Node]:
        kind, name = self.arguments
        before: list[nodes.Node] = []
        after: list[nodes.Node] = []
        if kind == "schedule":
            before = [_code(schedule_curves.run(name).code)]
        elif kind == "optimizer":
            recipe = optimizer_paths.recipe(name)
            before = [_code(recipe.code)]
            after = self.parse_text_to_nodes(recipe.note) if recipe.note else []
        elif kind == "speed":
            after = self.parse_text_to_nodes(SPEED_CAPTION)
        return [*before, drawing("", svg=DRAWINGS[kind](name)), *after]


SPEED_CAPTION = (
    "Time of one step of Adam, float32; each panel has its own linear scale. The dashed line is "
    "the roof: a loop that moves the same bytes and computes next to nothing."
)


def _code(text: str) -> nodes.Node:
    return nodes.literal_block(text, text, language="python")


class gallery(nodes.General, nodes.Element):
    """Small pictures, each a link."""


class Gallery(SphinxDirective):
    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        (kind,) = self.arguments
        return [gallery("", kind=kind)]


def visit_drawing(self: Any, node: drawing) -> None:
    self.body.append(f'<div class="drawing">{node["svg"]}</div>\n')
    raise nodes.SkipNode


def skip(self: Any, node: nodes.Element) -> None:
    raise nodes.SkipNode


def visit_gallery(self: Any, node: gallery) -> None:
    import reference

    kind = node["kind"]
    items = []
    pages = example_cards.pages() if kind == "example" else reference.pages_of(kind)
    for name, docname in pages.items():
        if is_drawn(kind, name):
            target = self.builder.get_relative_uri(self.builder.current_docname, docname)
            shown = re.sub(r"(?<=[a-z])(?=[A-Z])|(?<=_)", "<wbr>", name)
            items.append(f'<a href="{target}">{THUMBNAILS[kind](name)}<span>{shown}</span></a>')
    self.body.append(f'<div class="gallery">{"".join(items)}</div>\n')
    raise nodes.SkipNode


def setup(app: Sphinx) -> dict[str, Any]:
    app.add_node(drawing, html=(visit_drawing, None), text=(skip, None), latex=(skip, None))
    app.add_node(gallery, html=(visit_gallery, None), text=(skip, None), latex=(skip, None))
    app.add_directive("drawing", Drawing)
    app.add_directive("gallery", Gallery)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
