"""Adam on 1, 2, ... threads."""

from __future__ import annotations

from collections.abc import Sequence

from bench.report import Run, about, duration_text, ratio, ratio_text, titled, with_reasons
from bench.tables.command import Command
from bench.workloads import Workload


def thread_counts(asked: int | None) -> list[int]:
    """1, 2, 3, 4, 6, 8, 12, 16, and so on, and the last one: that many, or all there are."""
    if asked is None:
        import cyoptim

        asked = cyoptim.get_num_threads()  # within affinity and quotas
    counts = {n for power in range(asked.bit_length()) for n in (1 << power, 3 << power)}
    return sorted(n for n in counts | {asked} if n <= asked)


def text(run: Run, markdown: bool) -> str:
    """A row per number of threads: time, bandwidth and speed-up of each contender."""
    lines = about(run, markdown)
    for workload, results in run.by_workload():
        counts = {r.threads or run.environment["threads"]: r.workload for r in results}
        names = run.contenders(counts.values())
        header = ["threads", *(cell for name in names for cell in (name, "GB/s", "x 1 thread"))]
        rows = _rows(run, workload, counts, names)
        lines += titled(workload.title, header, rows, markdown)
    return with_reasons(lines, run)


def _rows(
    run: Run, workload: Workload, counts: dict[int, str], names: Sequence[str]
) -> list[tuple[str, ...]]:
    best = run.best()
    rows = []
    for count, timed in counts.items():
        row = [str(count)]
        for name in names:
            one, time = best.get((counts.get(1, ""), name)), best.get((timed, name))
            rate = f"{workload.bytes / time / 1e9:.0f}" if time else ""
            row += [duration_text(time), rate, ratio_text(ratio(one, time))]
        rows.append(tuple(row))
    return rows


COMMAND = Command(
    "Adam on 1, 2, ... threads",
    contenders=("cyoptim", "roof"),
    workloads=("1x16M",),
    text=text,
    threads=thread_counts,
)
