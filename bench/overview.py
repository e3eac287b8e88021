"""The table of all optimizers: against the roof, against torch's best mode, and against targets."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from bench.contenders import TORCH
from bench.optimizers import OPTIMIZERS
from bench.report import Run, about, duration, problems, ratio_text, table
from bench.workloads import OVERVIEW, WORKLOADS, overview_name

CONTENDERS = ("cyoptim", *TORCH, "roof")


@dataclass(frozen=True)
class Cell:
    """An optimizer on a workload; None where somebody was not timed."""

    time: float | None = None
    roof: float | None = None  # in times of the roof
    torch: float | None = None  # the best mode of torch, in times of cyoptim
    torch_time: float | None = None
    roof_time: float | None = None
    mode: str = ""


def cell(run: Run, optimizer: str, shapes: str) -> Cell:
    """What the results say of an optimizer on a workload."""
    name = overview_name(optimizer, shapes)
    times = {r.contender: r.quartile for r in run.results if r.workload == name and r.rounds}
    mine, roof = times.get("cyoptim"), times.get("roof")
    if mine is None:
        return Cell()
    mode = min((mode for mode in TORCH if mode in times), key=times.__getitem__, default="")
    torch = times.get(mode)
    return Cell(
        time=mine,
        roof=mine / roof if roof else None,
        torch=torch / mine if torch else None,
        torch_time=torch,
        roof_time=roof,
        mode=mode.removeprefix("torch-"),
    )


@dataclass(frozen=True)
class Target:
    """What a column of the table should be, for the optimizers that it speaks of."""

    title: str
    shapes: str
    bound: float
    most: bool  # whether the bound is an upper one
    value: Callable[[Cell], float | None]
    speaks_of: Callable[[str], bool] = lambda optimizer: True

    def row(self, run: Run) -> tuple[str, str, str, str]:
        """The table's row: title, bound, the worst value with its optimizer, and who misses it."""
        found = {
            name: value
            for name in OPTIMIZERS
            if self.speaks_of(name)
            and (value := self.value(cell(run, name, self.shapes))) is not None
        }
        bound = f"at {'most' if self.most else 'least'} {self.bound:g}"
        if not found:
            return self.title, bound, "", ""
        worst = (max if self.most else min)(found, key=found.__getitem__)
        missed = [name for name, value in found.items() if not self._met(value)]
        shown = f"{ratio_text(found[worst])} ({worst})"
        return self.title, bound, shown, ", ".join(missed) or "nobody"

    def _met(self, value: float) -> bool:
        return value <= self.bound if self.most else value >= self.bound


def _roof(cell: Cell) -> float | None:
    return cell.roof


def _torch(cell: Cell) -> float | None:
    return cell.torch


def _unfused(optimizer: str) -> bool:
    return not OPTIMIZERS[optimizer].fused


TARGETS = (
    Target("one tensor of 16,777,216, x roof", "1x16M", 1.15, True, _roof),
    Target("the same, torch / cyoptim, where torch has no fused kernel", "1x16M", 3, False, _torch,
           _unfused),
    Target("one tensor of 1,000,000, likewise", "1x1M", 3, False, _torch, _unfused),
    Target("1,000 tensors of 1,000, torch / cyoptim", "1000x1000", 20, False, _torch),
)  # fmt: skip


def rows(run: Run) -> Iterator[tuple[str, ...]]:
    """A row per optimizer that was timed: per workload the time, x roof, and torch's best mode."""
    for optimizer in OPTIMIZERS:
        cells = [cell(run, optimizer, shapes) for shapes in OVERVIEW]
        if any(c.time for c in cells):
            yield optimizer, *(text for c in cells for text in _texts(c))


def _texts(cell: Cell) -> tuple[str, str, str]:
    return (
        duration(cell.time) if cell.time else "",
        ratio_text(cell.roof),
        f"{ratio_text(cell.torch)} ({cell.mode})" if cell.mode else "",
    )


def text(run: Run, markdown: bool) -> str:
    """The table, the targets, and who was not timed, for a terminal or for GitHub."""
    sizes = [WORKLOADS[overview_name("Adam", shapes)].size for shapes in OVERVIEW]
    header = ["optimizer"]
    for size in sizes:
        header += [size, "x roof", "torch / cyoptim"]
    lines = [*about(run, markdown), "", *table(header, list(rows(run)), markdown), ""]
    header = ["target", "bound", "worst", "missed by"]
    lines += table(header, [target.row(run) for target in TARGETS], markdown)
    reasons = [f"{r.workload} {reason}" for r in run.results for reason in problems([r])]
    return "\n".join([*lines, "", *reasons] if reasons else lines)
