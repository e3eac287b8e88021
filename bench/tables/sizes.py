"""Time against the number of elements, and against the number of tensors."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from bench.report import Run, about, duration_text, titled, with_reasons
from bench.runner import Effort
from bench.tables.command import Command
from bench.workloads import Workload

ELEMENTS = (
    *("1", "10", "100", "1000", "2K", "4K", "8K", "16K", "32K", "64K", "128K", "256K"),
    *("512K", "1M", "2M", "4M", "8M", "16M", "64M"),
)
COUNTS = (1, 3, 10, 30, 100, 300, 1000)


@dataclass(frozen=True)
class Series:
    """A table and a panel of the plot: the quantity that grows, and the workloads."""

    title: str
    grows: str
    value: Callable[[Workload], int]
    holds: Callable[[Workload], bool]

    def of(self, run: Run) -> list[Workload]:
        """The workloads of an optimizer and a type, in ascending order."""
        return sorted(filter(self.holds, run.workloads()), key=self.value)


def _series_of_tensors(each: int) -> Series:
    return Series(f"tensors of {each:,}", "tensors", lambda w: w.tensors, lambda w: w.each == each)


SERIES = (
    Series("one tensor", "elements", lambda w: w.elements, lambda w: w.tensors == 1),
    _series_of_tensors(100),
    _series_of_tensors(1000),
)


def kinds(run: Run) -> list[tuple[str, Run]]:
    """The parts of a run, each of one optimizer and one type, by title."""
    found: dict[str, Run] = {}
    for workload, results in run.by_workload():
        title = f"{workload.optimizer}, {workload.dtype}"
        found.setdefault(title, Run(run.environment, [])).results += results
    return list(found.items())


def text(run: Run, markdown: bool) -> str:
    """A row per size, and a column per contender with its third best round of ten."""
    lines = about(run, markdown)
    for kind, part in kinds(run):
        times = part.quartiles()
        for series in SERIES:
            workloads = series.of(part)
            names = part.contenders([workload.name for workload in workloads])
            rows = [
                (
                    f"{series.value(workload):,}",
                    *(duration_text(times.get((workload.name, name))) for name in names),
                )
                for workload in workloads
            ]
            if len(rows) > 1:
                lines += titled(f"{kind}, {series.title}", [series.grows, *names], rows, markdown)
    return with_reasons(lines, run)


COMMAND = Command(
    "time against the number of elements, and of tensors",
    contenders=("cyoptim", "cyoptim-torch", "torch-fused", "numba", "numpy", "roof"),
    workloads=tuple(
        dict.fromkeys(
            [f"1x{size}" for size in ELEMENTS]
            + [f"{count}x{each}" for each in (100, 1000) for count in COUNTS]
        )
    ),
    text=text,
    drawn_by="draw_sizes",
    effort=Effort(rounds=10, seconds=0.1),
    where_unfused=("torch-default",),
    most_memory=8e9,
)
