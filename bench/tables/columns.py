"""A table with a row per contender, and per workload its time and its ratio to another's."""

from __future__ import annotations

from bench.report import Run, about, duration_text, ratio, ratio_text, table, with_reasons


def text(run: Run, markdown: bool, base: str) -> str:
    """The table; ``base`` is the contender in the denominator of the ratios."""
    best = run.best()
    workloads = run.workloads()
    header = ["contender"]
    for workload in workloads:
        header += [workload.size, f"x {base}"]
    rows = []
    for name in run.contenders([workload.name for workload in workloads]):
        row = [name]
        for workload in workloads:
            time, against = best.get((workload.name, name)), best.get((workload.name, base))
            row += [duration_text(time), ratio_text(ratio(time, against))]
        rows.append(tuple(row))
    return with_reasons([*about(run, markdown), "", *table(header, rows, markdown)], run)
