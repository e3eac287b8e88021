"""An optimizer in one pass, one in two, and a reduction, on 1, 2, 4, ... threads."""

from __future__ import annotations

from dataclasses import dataclass

from bench.optimizers import NORM, OPERATIONS
from bench.report import Run, about, duration, ratio, ratio_text, titled, with_reasons
from bench.runner import Effort
from bench.tables.command import Command
from bench.workloads import Workload


def thread_counts(asked: int | None) -> list[int]:
    """1, 2, 4, 8, and so on, and the last one: that many, or all there are."""
    if asked is None:
        import cyoptim

        asked = cyoptim.get_num_threads()  # within affinity and quotas
    return sorted({1 << power for power in range(asked.bit_length())} | {asked})


def text(run: Run, markdown: bool) -> str:
    """A row per number of threads, with four cells per contender."""
    lines = about(run, markdown)
    for workload, points in series(run).items():
        names = list(dict.fromkeys(name for name, _ in points))
        columns = ("GB/s", "x 1 thread", "of the roof")
        header = ["threads", *(cell for name in names for cell in (name, *columns))]
        rows = [
            [str(count), *(text for name in names for text in _texts(points.get((name, count))))]
            for count in sorted({count for _, count in points})
        ]
        lines += titled(workload.title, header, rows, markdown)
    return with_reasons(lines, run)


@dataclass(frozen=True)
class Point:
    """A contender on a number of threads."""

    time: float
    rate: float  # bytes per second
    speedup: float | None  # over one thread
    of_roof: float | None  # the share of the rate of the roof on as many threads


def series(run: Run) -> dict[Workload, dict[tuple[str, int], Point]]:
    """By workload: the points of those contenders that were timed, by number of threads."""
    best = run.best()
    found: dict[Workload, dict[tuple[str, int], Point]] = {}
    for workload, results in run.by_workload():
        times = {
            (r.contender, r.threads or run.environment["threads"]): best[r.workload, r.contender]
            for r in results
            if r.rounds
        }
        found[workload] = {
            (name, count): Point(
                time,
                workload.bytes / time,
                ratio(times.get((name, 1)), time),
                ratio(times.get(("roof", count)), time),
            )
            for (name, count), time in times.items()
        }
    return found


def _texts(point: Point | None) -> tuple[str, ...]:
    if point is None:
        return "", "", "", ""
    share = "" if point.of_roof is None else f"{point.of_roof:.0%}"
    return duration(point.time), f"{point.rate / 1e9:.0f}", ratio_text(point.speedup), share


COMMAND = Command(
    "one pass, two passes and a reduction on 1, 2, 4, ... threads",
    contenders=("cyoptim-pool", "cyoptim-openmp", "torch-fused", "torch-norm", "roof"),
    workloads=("1x64K", "1x256K", "1x1M", "1x4M", "1x16M", "1x64M", "1000x1000"),
    text=text,
    drawn_by=("curves", "draw_scaling"),
    optimizers=("Adam", "Lamb-unclipped", NORM),
    operations=OPERATIONS,
    threads=thread_counts,
    effort=Effort(rounds=4, seconds=0.04),
)
