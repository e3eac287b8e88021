"""Adam after many zero gradients."""

from __future__ import annotations

from bench.report import Run, about, duration_text, ratio, ratio_text, titled, with_reasons
from bench.tables.command import Command
from bench.workloads import ZEROS, named


def text(run: Run, markdown: bool) -> str:
    """A row per contender: before, after, and how many times longer."""
    best = run.best()
    header = ["contender", "before", f"after {ZEROS:,} zero gradients", "ratio"]
    lines = about(run, markdown)
    for workload in run.workloads():
        if workload.zeros:
            continue
        after = named(f"{workload.name}:zeros").name
        rows = []
        for name in run.contenders((workload.name, after)):
            times = best.get((workload.name, name)), best.get((after, name))
            cells = *map(duration_text, times), ratio_text(ratio(times[1], times[0]))
            rows.append((name, *cells))
        lines += titled(workload.title, header, rows, markdown)
    return with_reasons(lines, run)


COMMAND = Command(
    "Adam once gradients have been zero for long",
    contenders=("cyoptim", "torch-fused", "torch-default"),
    workloads=("1x1M",),
    text=text,
    zeroed=(False, True),
    any_optimizer=False,
    any_dtype=False,
)
