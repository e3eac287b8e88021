"""Time against the number of elements, and against the number of tensors."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from bench.contexts import CONTEXTS
from bench.report import Run, about, duration_text, titled, with_reasons
from bench.runner import Effort
from bench.tables import verdict
from bench.tables.command import Command
from bench.workloads import Workload

ELEMENTS = (
    *("1", "10", "100", "1000", "2K", "4K", "8K", "12K", "16K", "24K", "32K", "48K", "64K"),
    *("96K", "128K", "192K", "256K", "384K", "512K", "768K", "1M", "2M", "4M", "8M", "16M", "64M"),
)
COUNTS = (1, 10, 100, 1000)


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
    """The parts of a run, each of one optimizer, type and context, by title."""
    found: dict[str, Run] = {}
    for workload, results in run.by_workload():
        title = f"{workload.optimizer}, {workload.dtype}"
        if workload.context != "loop":
            title += f", {CONTEXTS[workload.context].title}"
        found.setdefault(title, Run(run.environment, [])).results += results
    return list(found.items())


def text(run: Run, markdown: bool) -> str:
    """The verdict, and for each series a row per size, and a column per contender with its third
    best round of ten."""
    lines = [*about(run, markdown), *verdict.text(run, markdown)]
    for kind, part in kinds(run):
        for series in SERIES:
            for measure in part.measures:
                title = f"{kind}, {series.title}" + f", {measure}" * (len(part.measures) > 1)
                lines += _table(title, part, series, measure, markdown)
    return with_reasons(lines, run)


def _table(title: str, part: Run, series: Series, measure: str, markdown: bool) -> list[str]:
    times = part.quartiles(measure)
    workloads = series.of(part)
    names = [n for n in part.contenders([w.name for w in workloads]) if n in {c for _, c in times}]
    rows = [
        (
            f"{series.value(workload):,}",
            *(duration_text(times.get((workload.name, name))) for name in names),
        )
        for workload in workloads
    ]
    return titled(title, [series.grows, *names], rows, markdown) if rows[1:] else []


COMMAND = Command(
    "time against the number of elements, and of tensors",
    contenders=(
        *("cyoptim", *verdict.RIVALS, "cyoptim-openmp", "cyoptim-torch"),
        *("torch-fused", "numpy", "roof"),
    ),
    workloads=tuple(
        dict.fromkeys(
            [f"1x{size}" for size in ELEMENTS]
            + [f"{count}x{each}" for each in (100, 1000) for count in COUNTS]
        )
    ),
    text=text,
    drawn_by=("curves", "draw_sizes"),
    optimizers=("SGD", "Adam", "Lamb-unclipped"),
    contexts=("loop", "openblas"),
    any_context=True,
    where_unfused=("torch-default",),
    effort=Effort(rounds=10, seconds=0.05),
    most_memory=12e9,
)
