"""All contenders: a table per workload."""

from __future__ import annotations

from collections.abc import Sequence

from bench.contenders import PEERS
from bench.report import Run, about, duration, problems, ratio_text, table
from bench.runner import Result
from bench.tables.command import Command
from bench.workloads import ADAM, Workload

BASES = ("cyoptim", "roof")
HEADER = ("contender", "per step", *(f"x {base}" for base in BASES), "spread")


def text(run: Run, markdown: bool) -> str:
    """A table per workload, with reasons for contenders that were not timed."""
    lines = about(run, markdown)
    for workload, results in run.by_workload():
        title = caption(workload, results)
        lines += ["", f"**{title}**", ""] if markdown else ["", title]
        lines += table(HEADER, rows(results), markdown)
        reasons = problems(results)
        lines += ["", *reasons] if markdown and reasons else reasons
    return "\n".join(lines)


def rows(results: Sequence[Result]) -> list[tuple[str, ...]]:
    """The cells of one workload's table, with reasons for contenders that were not timed."""
    best = {r.contender: r.best for r in results if r.rounds}
    return [
        (
            r.contender,
            duration(r.best),
            *(ratio_text(r.best / best[base] if base in best else None) for base in BASES),
            f"{r.spread:.2f}",
        )
        if r.rounds
        else (r.contender, r.status.upper(), "", "", "")
        for r in results
    ]


def caption(workload: Workload, results: Sequence[Result]) -> str:
    """The workload's title, with the memory that the roof moves per second."""
    roof = [r.best for r in results if r.contender == "roof" and r.rounds]
    rate = f"; the roof moves {workload.bytes / roof[0] / 1e9:.0f} GB/s" if roof else ""
    return workload.title + rate


COMMAND = Command("all contenders, Adam", PEERS, ADAM, text, drawn_by=("bars", "draw"))
