"""Whether cyoptim chooses well: its steps against the best of one thread, all threads and numba."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from bench.contexts import CONTEXTS
from bench.report import LEAST_NOISE, Run, ratio_text, titled
from bench.runner import Result, quartile
from bench.tables import targets
from bench.workloads import Workload

RIVALS = ("cyoptim-1", "cyoptim-all", "numba", "numba-1")
BOUND = 1 + LEAST_NOISE


@dataclass(frozen=True)
class Cell:
    """cyoptim against the best of its rivals."""

    ratio: float
    rival: str
    low: float  # the lower quartile of the ratios of the rounds

    @property
    def surely(self) -> bool:
        """Whether it is beyond the bound in three of four rounds, too."""
        return self.low > BOUND < self.ratio


def cells(run: Run, context: str, measure: str) -> dict[Workload, Cell]:
    """By workload of a context, where cyoptim and a rival were timed."""
    found = {}
    for workload, results in run.by_workload():
        timed = {r.contender: r for r in results if r.of(measure)}
        rivals = [timed[name] for name in RIVALS if name in timed]
        if workload.context == context and "cyoptim" in timed and rivals:
            found[workload] = _cell(timed["cyoptim"], rivals, measure)
    return found


def _cell(mine: Result, rivals: Sequence[Result], measure: str) -> Cell:
    best = min(rivals, key=lambda rival: quartile(rival.of(measure)))
    ratios = [a / b for a, b in zip(mine.of(measure), best.of(measure), strict=True)]
    ratio = quartile(mine.of(measure)) / quartile(best.of(measure))
    return Cell(ratio, best.contender, quartile(ratios))


def text(run: Run, markdown: bool) -> list[str]:
    """What misses the bound, and a table per context and measure."""
    lines = summary(run, markdown)
    for title, found in _parts(run):
        caption = f"cyoptim against the best of {', '.join(RIVALS)}: {title}"
        lines += titled(caption, *_table(found), markdown)
    return lines


def summary(run: Run, markdown: bool) -> list[str]:
    """A row per context and measure: the worst ratio, and all beyond the bound."""
    rows = [_target_row(title, found) for title, found in _parts(run)]
    header = (*targets.HEADER, "in three of four rounds")
    title = f"cyoptim against the best of {', '.join(RIVALS)}"
    return titled(title, header, rows, markdown) if rows else []


def _parts(run: Run) -> Iterator[tuple[str, dict[Workload, Cell]]]:
    """The cells of each context and measure, by title."""
    for context in dict.fromkeys(w.context for w in run.workloads()):
        for measure in run.measures:
            if found := cells(run, context, measure):
                yield f"{CONTEXTS[context].title}, {measure}", found


def _table(found: dict[Workload, Cell]) -> tuple[list[str], list[list[str]]]:
    """A row per size, and a column per optimizer and type."""
    kinds = list(dict.fromkeys(_kind(w) for w in found))
    sizes: dict[str, dict[str, Cell]] = {}
    for workload in sorted(found, key=lambda w: (w.tensors > 1, w.each, w.tensors)):
        sizes.setdefault(workload.size, {})[_kind(workload)] = found[workload]
    rows = [[size, *(_text(row.get(kind)) for kind in kinds)] for size, row in sizes.items()]
    return ["", *kinds], rows


def _kind(workload: Workload) -> str:
    return f"{workload.optimizer} {workload.dtype}"


def _text(cell: Cell | None) -> str:
    if cell is None:
        return ""
    return f"{ratio_text(cell.ratio)} ({cell.rival})" + " !" * cell.surely


def _target_row(title: str, found: dict[Workload, Cell]) -> tuple[str, ...]:
    ratios = {_short(w): cell.ratio for w, cell in found.items()}
    surely = [_short(w) for w, cell in found.items() if cell.surely]
    row = targets.row(title, BOUND, ratios, most=True)
    return (*row, f"{len(surely)} of {len(found)}: {', '.join(surely) or 'nobody'}")


def _short(workload: Workload) -> str:
    """Its name, without the context."""
    return ":".join(word for word in workload.name.split(":") if word != workload.context)
