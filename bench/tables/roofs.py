"""Ratios to the roof over optimizers, types, numbers of threads and sizes, with two targets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import quantiles

from bench.report import Run, about, duration_text, ratio_text, table, titled, with_reasons
from bench.runner import Effort, Result
from bench.tables import targets
from bench.tables.command import Command, one_and_more
from bench.workloads import Workload


@dataclass(frozen=True)
class Part:
    """A table of sizes with one target."""

    title: str
    bound: float  # ratio to the roof
    least: int  # elements, up to those of the previous part

    def workloads(self, run: Run) -> list[Workload]:
        return [w for w in run.workloads() if self is _part(w)]


PARTS = (Part("out of the cache", 1.05, 1_000_000), Part("in the cache", 1.3, 0))


def _part(workload: Workload) -> Part:
    return next(part for part in PARTS if workload.elements >= part.least)


@dataclass(frozen=True)
class Cell:
    """cyoptim against the roof."""

    time: float  # the third best round of ten
    ratio: float  # to the third best round of the roof
    low: float  # the quartiles of the ratios of the rounds
    high: float


def cells(run: Run) -> dict[tuple[Workload, int], Cell]:
    """By workload and number of threads, where both were timed."""
    found: dict[tuple[Workload, int], Cell] = {}
    for workload, results in run.by_workload():
        of = {(r.contender, r.threads or run.environment["threads"]): r for r in results}
        for (name, threads), mine in of.items():
            roof = of.get(("roof", threads))
            if name == "cyoptim" and roof and mine.rounds and roof.rounds:
                found[workload, threads] = _cell(mine, roof)
    return found


def _cell(mine: Result, roof: Result) -> Cell:
    ratios = [a / b for a, b in zip(mine.rounds, roof.rounds, strict=True)]
    low, _, high = quantiles(ratios, n=4, method="inclusive") if ratios[1:] else 3 * ratios
    return Cell(mine.quartile, mine.quartile / roof.quartile, low, high)


def text(run: Run, markdown: bool) -> str:
    """A table per target, and below them the targets."""
    found = cells(run)
    lines = about(run, markdown)
    for part in PARTS:
        sizes = list(dict.fromkeys(w.size for w in part.workloads(run)))
        header = ["optimizer", "type", "threads"]
        header += [title for size in sizes for title in (size, "x roof", "in its rounds")]
        rows = _rows({key: c for key, c in found.items() if _part(key[0]) is part}, sizes)
        if rows:
            lines += titled(part.title, header, rows, markdown)
    rows = [row for part in PARTS for row in _target_rows(part, found)]
    lines += ["", *table((*targets.HEADER, "beyond its rounds"), rows, markdown)]
    return with_reasons(lines, run)


def _rows(found: dict[tuple[Workload, int], Cell], sizes: Sequence[str]) -> list[tuple[str, ...]]:
    """A row per optimizer, type and number of threads."""
    rows: dict[tuple[str, str, str], dict[str, Cell]] = {}
    for (workload, threads), cell in found.items():
        key = workload.optimizer, workload.dtype, str(threads)
        rows.setdefault(key, {})[workload.size] = cell
    return [
        (*key, *(text for size in sizes for text in _texts(row.get(size))))
        for key, row in rows.items()
    ]


def _texts(cell: Cell | None) -> tuple[str, str, str]:
    if cell is None:
        return "", "", ""
    noise = f"{ratio_text(cell.low)} to {ratio_text(cell.high)}"
    return duration_text(cell.time), ratio_text(cell.ratio), noise


def _target_rows(part: Part, found: dict[tuple[Workload, int], Cell]) -> list[tuple[str, ...]]:
    """A row per number of threads. Misses in three of four rounds are listed again."""
    rows: list[tuple[str, ...]] = []
    for count in sorted({threads for _, threads in found}):
        here = {
            f"{workload.optimizer} {workload.dtype} {workload.each:,}": cell
            for (workload, threads), cell in found.items()
            if threads == count and _part(workload) is part
        }
        title = f"{part.title}, x roof, {count} thread{'s' * (count > 1)}"
        ratios = {name: cell.ratio for name, cell in here.items()}
        surely = [name for name, cell in here.items() if cell.low > part.bound < cell.ratio]
        row = targets.row(title, part.bound, ratios, most=True)
        rows.append((*row, ", ".join(surely) or "nobody" if here else ""))
    return rows


COMMAND = Command(
    "how far from the roof, over types, threads and sizes",
    contenders=("cyoptim", "roof"),
    workloads=("1x1M", "1x16M", "1x64M", "1x16K", "1x64K", "1x256K"),
    text=text,
    optimizers=("SGD", "SGD-momentum", "Adam", "AdamW", "RMSprop", "Adagrad"),
    dtypes=("float32", "float64"),
    threads=one_and_more,
    effort=Effort(rounds=10, seconds=0.1),
)
