"""A picture of a run: a grid of panels under a line about the machine."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

from matplotlib import pyplot
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from bench.report import Run


@contextmanager
def picture(
    run: Run, path: Path, grid: tuple[int, int], size: tuple[float, float], about: str = ""
) -> Iterator[list[list[Axes]]]:
    """Rows of panels, each of this size in inches, which are written when they are drawn."""
    (rows, columns), (width, height) = grid, size
    figure, axes = pyplot.subplots(
        rows,
        columns,
        figsize=(width * columns, height * rows),
        squeeze=False,
        layout="constrained",
    )
    yield [list(row) for row in axes]
    _add_legend(figure)
    facts = run.environment
    machine = f"{facts['cpu']}, {facts['threads']} threads, cyoptim {facts['cyoptim']}"
    figure.suptitle(f"{about}{machine}", fontsize=10)
    figure.savefig(path, dpi=150)
    pyplot.close(figure)
    if path.suffix.lower() == ".png":
        shrink(path)


def _add_legend(figure: Figure) -> None:
    """One for all panels that have none of their own."""
    panels = [axis for axis in figure.axes if axis.get_legend() is None]
    lines = {line.get_label(): line for axis in panels for line in axis.get_lines()}
    shown = {name: line for name, line in lines.items() if not str(name).startswith("_")}
    if shown:
        where, columns = "outside lower center", min(len(shown), 6)
        figure.legend(shown.values(), shown.keys(), loc=where, ncols=columns, fontsize=8)


def shrink(path: Path) -> None:
    """Reduce the colours: enough for lines, with a third of the bytes."""
    with Image.open(path) as image:
        image.convert("RGB").quantize(64).save(path, optimize=True)
