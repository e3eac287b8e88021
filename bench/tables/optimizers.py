"""All optimizers in one table: against the roof, their source, and targets.

The source is torch's best mode, or the class of the authors of an optimizer that torch lacks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from bench.contenders import SOURCES
from bench.optimizers import OPTIMIZERS
from bench.report import Run, about, duration_text, ratio, ratio_text, table, with_reasons
from bench.tables import targets
from bench.tables.command import Command
from bench.workloads import OVERVIEW, name_of, named


@dataclass(frozen=True)
class Cell:
    """An optimizer on a workload; None where a contender was not timed."""

    time: float | None = None
    roof: float | None = None  # ratio to the roof
    source: float | None = None  # ratio of torch's best mode, or the authors' class, to cyoptim
    source_time: float | None = None
    roof_time: float | None = None
    mode: str = ""


def cell(run: Run, optimizer: str, shapes: str) -> Cell:
    """The results of an optimizer on a workload, in the type of the run."""
    name = name_of(shapes, optimizer, dtype(run))
    times = {who: time for (what, who), time in run.quartiles().items() if what == name}
    mine, roof = times.get("cyoptim"), times.get("roof")
    if mine is None:
        return Cell()
    mode = min((mode for mode in SOURCES if mode in times), key=times.__getitem__, default="")
    source = times.get(mode)
    return Cell(
        time=mine,
        roof=ratio(mine, roof),
        source=ratio(source, mine),
        source_time=source,
        roof_time=roof,
        mode=_named(mode, optimizer),
    )


def _named(mode: str, optimizer: str) -> str:
    """The mode of torch, or the package of the authors' class."""
    source = OPTIMIZERS[optimizer].source
    if mode == "source" and source is not None:
        return source.place or source.cls.partition(".")[0]
    return mode.removeprefix("torch-")


def dtype(run: Run) -> str:
    return run.workloads()[0].dtype


@dataclass(frozen=True)
class Target:
    """The target of a column of the table, for some optimizers."""

    title: str
    shapes: str
    bound: float
    most: bool  # whether the bound is an upper one
    value: Callable[[Cell], float | None]
    speaks_of: Callable[[str], bool] = lambda optimizer: True

    def row(self, run: Run) -> tuple[str, str, str, str]:
        """The row of the table of targets."""
        found = {
            name: value
            for name in OPTIMIZERS
            if self.speaks_of(name)
            and (value := self.value(cell(run, name, self.shapes))) is not None
        }
        return targets.row(self.title, self.bound, found, most=self.most)


def _roof(cell: Cell) -> float | None:
    return cell.roof


def _source(cell: Cell) -> float | None:
    return cell.source


def _unfused(optimizer: str) -> bool:
    return not OPTIMIZERS[optimizer].fused


def _in_one_pass(optimizer: str) -> bool:
    return not OPTIMIZERS[optimizer].goes_again


def _in_more_passes(optimizer: str) -> bool:
    return OPTIMIZERS[optimizer].goes_again


TARGETS = (
    Target("one tensor of 16,777,216, x roof, one pass", "1x16M", 1.05, True, _roof, _in_one_pass),
    Target("the same, several passes", "1x16M", 1.15, True, _roof, _in_more_passes),
    Target("the same, source / cyoptim, where torch has no fused kernel", "1x16M", 3, False,
           _source, _unfused),
    Target("one tensor of 1,000,000, likewise", "1x1M", 3, False, _source, _unfused),
    Target("1,000 tensors of 1,000, source / cyoptim", "1000x1000", 20, False, _source),
)  # fmt: skip


def rows(run: Run) -> Iterator[tuple[str, ...]]:
    """A row per optimizer that was timed: per workload the time, x roof, and the source."""
    for optimizer in OPTIMIZERS:
        cells = [cell(run, optimizer, shapes) for shapes in OVERVIEW]
        if any(c.time for c in cells):
            yield optimizer, *(text for c in cells for text in _texts(c))


def _texts(cell: Cell) -> tuple[str, str, str]:
    return (
        duration_text(cell.time),
        ratio_text(cell.roof),
        f"{ratio_text(cell.source)} ({cell.mode})" if cell.mode else "",
    )


def text(run: Run, markdown: bool) -> str:
    """The table, the targets, and the contenders that were not timed."""
    header = ["optimizer"]
    for shapes in OVERVIEW:
        header += [named(shapes).size, "x roof", "source / cyoptim"]
    lines = [*about(run, markdown), "", *table(header, list(rows(run)), markdown), ""]
    lines += table(targets.HEADER, [target.row(run) for target in TARGETS], markdown)
    return with_reasons(lines, run)


COMMAND = Command(
    "all optimizers in one table",
    contenders=("cyoptim", *SOURCES, "roof"),
    workloads=OVERVIEW,
    text=text,
    drawn_by=("bars", "draw_overview"),
    optimizers=tuple(OPTIMIZERS),
)
