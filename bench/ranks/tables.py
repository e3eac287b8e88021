"""The tables of a run."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from bench.ranks.checks import DEMANDS, compared
from bench.ranks.contenders import ALLREDUCE, REPLICATED, SHARDED, STEPS
from bench.ranks.parts import MOVING, PARTS, ROOF, moved
from bench.ranks.study import Study, Timed, processes
from bench.ranks.workloads import title, workload_of
from bench.report import (
    Run,
    about,
    duration,
    ratio,
    ratio_text,
    table,
    titled,
)

Found = dict[str, Timed]


def text(study: Study, markdown: bool) -> str:
    """All tables, and the reasons why contenders were not timed."""
    lines = about(Run(study.environment, []), markdown)
    for library, ranks, workload in study.places():
        found = study.of(library, ranks, workload)
        where = f"{library}, {processes(ranks)}, {title(workload_of(workload))}"
        if rows := [*_steps(found)]:
            header = ("", "per step", f"x {ALLREDUCE}", f"x {REPLICATED}", "spread")
            lines += titled(where, header, rows, markdown)
        if rows := [*_parts(found, ranks, workload_of(workload).elements)]:
            header = ("a part", "time", "MB of a process", "GB/s of a process", "x roof")
            lines += titled(f"{where}: the parts of a step", header, rows, markdown)
    if study.memory:
        lines += titled("Memory of a process, bytes per parameter", *_memory(study), markdown)
    if rows := [*_model(study)]:
        lines += titled("A model of the times on this machine", MODEL_HEADER, rows, markdown)
    if rows := [*_demands(study)]:
        header = ("", "demanded", "measured", "met")
        lines += titled("What was demanded, in two processes", header, rows, markdown)
    return "\n".join([*lines, *_reasons(study)])


def model(study: Study) -> str:
    """The table of the model alone, for a page."""
    return "\n".join(table(MODEL_HEADER, [*_model(study)], markdown=True))


def memory(study: Study) -> str:
    """The table of memory alone, for a page."""
    return "\n".join(table(*_memory(study), markdown=True))


def _steps(found: Found) -> Iterator[Sequence[str]]:
    """A row per contender."""
    against = [found[name].best if name in found else None for name in (ALLREDUCE, REPLICATED)]
    for name in STEPS:
        if timed := found.get(name):
            ratios = [ratio_text(ratio(timed.best, other)) for other in against]
            yield name, duration(timed.best), *ratios, ratio_text(timed.spread)


def _parts(found: Found, ranks: int, n: int) -> Iterator[Sequence[str]]:
    """A row per part, and what they take together."""
    roof = found.get(ROOF)
    rate = PARTS[ROOF].bytes(n, ranks) / roof.best if roof else None
    for name, part in PARTS.items():
        if timed := found.get(name):
            yield _row(name, part.bytes(n, ranks), timed.best, rate)
    if all(name in found for name in MOVING):
        together = sum(found[name].best for name in MOVING)
        yield _row("all parts that move memory", moved(n, ranks), together, rate)
        if step := found.get(SHARDED):
            yield _row("a whole step", moved(n, ranks), step.best, rate)


def _row(name: str, size: float, seconds: float, roof: float | None) -> Sequence[str]:
    """Bytes, the time, and how many times as long as the roof's it is."""
    if not size:
        return name, duration(seconds), "", "", ""
    rate = size / seconds
    cells = f"{size / 1e6:.0f}", f"{rate / 1e9:.1f}", ratio_text(ratio(roof, rate))
    return name, duration(seconds), *cells


def _memory(study: Study) -> tuple[Sequence[str], list[Sequence[str]]]:
    """A row per contender, and for each number of processes its state, and what it adds at most."""
    ranks = list(dict.fromkeys(held.ranks for held in study.memory))
    header = [""]
    for count in ranks:
        header += [f"{processes(count)}: state", "at the peak"]
    rows = []
    for name in dict.fromkeys(held.contender for held in study.memory):
        row = [name]
        for count in ranks:
            row += _held(study, name, count)
        rows.append(row)
    return header, rows


def _held(study: Study, name: str, ranks: int) -> Sequence[str]:
    for held in study.memory:
        if (held.contender, held.ranks, held.status) == (name, ranks, "ready"):
            n = workload_of(held.workload).elements
            resident = "" if held.resident is None else f"{held.resident / n:.2f}"
            return f"{held.state / n:.2f}", resident
    return "", ""


MODEL_HEADER = ("one array", "processes", "measured", "model", "measured / model")


def _model(study: Study) -> Iterator[Sequence[str]]:
    for row in compared(study):
        yield (
            f"{row.library}: {row.contender}",
            str(row.ranks),
            duration(row.measured),
            duration(row.model),
            ratio_text(row.measured / row.model),
        )


def _demands(study: Study) -> Iterator[Sequence[str]]:
    for demand in DEMANDS:
        for library in study.libraries:
            value = demand.measured(study, library)
            if value is not None:
                what = f"{library}: a sharded step, over {demand.against}"
                met = "yes" if value <= demand.bound else "**no**"
                yield what, f"at most {demand.bound:g}", ratio_text(value), met


def _reasons(study: Study) -> list[str]:
    return ["", *study.problems] if study.problems else []
