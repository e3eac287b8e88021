"""A picture of a run: a grid of panels under a line about the machine."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

from matplotlib import pyplot
from matplotlib.axes import Axes
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
    facts = run.environment
    machine = f"{facts['cpu']}, {facts['threads']} threads, cyoptim {facts['cyoptim']}"
    figure.suptitle(f"{about}{machine}", fontsize=10)
    figure.savefig(path, dpi=150)
    pyplot.close(figure)
    if path.suffix.lower() == ".png":
        shrink(path)


def shrink(path: Path) -> None:
    """Reduce the colours: enough for lines, with a third of the bytes."""
    with Image.open(path) as image:
        image.convert("RGB").quantize(64).save(path, optimize=True)
