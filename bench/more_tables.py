"""The tables of ``denormals``, ``scaling`` and ``fused``."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from bench.contenders import CONTENDERS
from bench.report import Run, about, duration, problems, ratio_text, table
from bench.runner import Result, measure
from bench.workloads import SHAPES, WORKLOADS, Workload, zeroed_name

DENORMALS = ("cyoptim", "torch-fused", "torch-default")
SCALING = ("cyoptim", "roof")


def thread_counts(most: int) -> list[int]:
    """1, 2, 3, 4, 6, 8, 12, 16, and so on, and the last one."""
    counts = {n for power in range(most.bit_length()) for n in (1 << power, 3 << power)}
    return sorted(n for n in counts | {most} if n <= most)


def measure_scaling(
    workloads: Sequence[Workload],
    contenders: Sequence[str],
    *,
    threads: int,
    rounds: int,
    seconds: float,
    progress: Callable[[str], None],
) -> list[Result]:
    """Time each number of threads, in processes that know of no others."""
    results = []
    for count in thread_counts(threads):
        progress(f"{count} threads")
        found = measure(
            workloads,
            contenders,
            threads=count,
            rounds=rounds,
            seconds=seconds,
            progress=progress,
        )
        results += [replace(r, workload=f"{r.workload}@{count}") for r in found]
    return results


def denormals(run: Run, markdown: bool) -> str:
    """A row per contender: before, after, and how many times longer."""
    best = _best(run)
    lines = about(run, markdown)
    for shapes in SHAPES:
        after = WORKLOADS[zeroed_name(shapes)]
        names = _names(run, (shapes, after.name))
        if not names:
            continue
        header = ["contender", "before", f"after {after.zeros:,} zero gradients", "ratio"]
        rows = []
        for name in names:
            first, second = best.get((shapes, name)), best.get((after.name, name))
            ratio = second / first if first and second else None
            rows.append((name, _time(first), _time(second), ratio_text(ratio)))
        lines += _titled(after.title, header, rows, markdown)
    return _with_reasons(lines, run)


def scaling(run: Run, markdown: bool) -> str:
    """A row per number of threads: time, bandwidth and gain of each contender."""
    best = _best(run)
    lines = about(run, markdown)
    for shapes in SHAPES:
        counts = {
            int(r.workload.partition("@")[2]): None
            for r in run.results
            if r.workload.startswith(f"{shapes}@")
        }
        names = _names(run, [f"{shapes}@{count}" for count in counts])
        if not names:
            continue
        workload = WORKLOADS[shapes]
        header = ["threads"]
        for name in names:
            header += [name, "GB/s", "x 1 thread"]
        rows = []
        for count in counts:
            row = [str(count)]
            for name in names:
                one, time = (best.get((f"{shapes}@{n}", name)) for n in (1, count))
                row += [
                    _time(time),
                    f"{workload.bytes / time / 1e9:.0f}" if time else "",
                    ratio_text(one / time if one and time else None),
                ]
            rows.append(tuple(row))
        lines += _titled(workload.title, header, rows, markdown)
    return _with_reasons(lines, run)


def fused(run: Run, markdown: bool) -> str:
    """A row per way to clip, step and zero: the time, and that of the plain step."""
    best = _best(run)
    workloads = [name for name in WORKLOADS if any(r.workload == name for r in run.results)]
    header = ["contender"]
    for workload in workloads:
        header += [WORKLOADS[workload].size, "x step"]
    rows = []
    for name in _names(run, workloads):
        row = [name]
        for workload in workloads:
            time, plain = best.get((workload, name)), best.get((workload, "step"))
            row += [_time(time), ratio_text(time / plain if time and plain else None)]
        rows.append(tuple(row))
    lines = [*about(run, markdown), "", *table(header, rows, markdown)]
    return _with_reasons(lines, run)


def _best(run: Run) -> dict[tuple[str, str], float]:
    return {(r.workload, r.contender): r.best for r in run.results if r.rounds}


def _names(run: Run, workloads: Sequence[str]) -> list[str]:
    """Who was asked for, in the order of the contenders."""
    asked = {r.contender for r in run.results if r.workload in workloads}
    return [name for name in CONTENDERS if name in asked]


def _time(seconds: float | None) -> str:
    return duration(seconds) if seconds else ""


def _titled(
    title: str, header: Sequence[str], rows: Sequence[Sequence[str]], markdown: bool
) -> Iterator[str]:
    yield from ("", f"**{title}**", "") if markdown else ("", title)
    yield from table(header, rows, markdown)


def _with_reasons(lines: list[str], run: Run) -> str:
    reasons = [f"{r.workload} {reason}" for r in run.results for reason in problems([r])]
    return "\n".join([*lines, "", *reasons] if reasons else lines)
