"""Starts the workers, and requests rounds from one after the other."""

from __future__ import annotations

import json
import os
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from bench.contenders import CONTENDERS
from bench.contexts import CONTEXTS
from bench.workloads import Workload

ROOT = Path(__file__).parents[1]


MEDIAN, MEAN = "median", "mean"
"""What a round gives: of its batches, and of its steps if they are timed one by one."""


@dataclass
class Result:
    """A contender on a workload: seconds per step of every round, or the reason for none."""

    workload: str
    contender: str
    status: str
    message: str = ""
    repeats: int = 0
    rounds: list[float] = field(default_factory=list)
    means: list[float] = field(default_factory=list)  # of the rounds, if steps are timed singly

    @property
    def threads(self) -> int | None:
        """The number of threads, if a run has several numbers."""
        _, at, count = self.workload.partition("@")
        return int(count) if at else None

    def of(self, measure: str) -> list[float]:
        """The rounds by their median or mean."""
        return {MEDIAN: self.rounds, MEAN: self.means}[measure]

    @property
    def best(self) -> float:
        return min(self.rounds)

    @property
    def quartile(self) -> float:
        """The third best of ten rounds, which neither a lucky nor most disturbed rounds affect."""
        return quartile(self.rounds)

    @property
    def spread(self) -> float:
        """The median round over the best one: the effect of noise."""
        return statistics.median(self.rounds) / self.best


def quartile(values: Sequence[float]) -> float:
    """The third best of ten."""
    return sorted(values)[(len(values) - 1) // 4]


class Worker:
    """The process of one contender. It serves several workloads, because libraries load slowly."""

    def __init__(self, contender: str, threads: int) -> None:
        self.contender, self.threads = contender, threads
        self.process = self._start()

    def prepare(self, workload: Workload) -> None:
        """Ask for a workload: its process begins to build the step."""
        if self.process.poll() is not None:
            self.close()
            self.process = self._start()
        self.result = Result(workload.name, self.contender, "started")
        self._send(workload=workload.name)

    def validate(self) -> None:
        """Ask for the comparison with the reference."""
        self._send(validate=True)

    def wait(self) -> None:
        """Wait until the step is built or validated, or has failed."""
        reply = self._reply()
        self.result.status, self.result.message = reply["status"], reply["message"]
        packages = " ".join(CONTENDERS[self.contender].packages)
        if self.result.status == "missing" and packages:
            self.result.message += f" (pip install {packages})"

    def round(self, seconds: float) -> None:
        """Time one round. A contender that fails has no result, and no further rounds."""
        self._send(seconds=seconds)
        reply = self._reply()
        if reply.get("status") == "failed":
            self.result.status, self.result.message = "failed", reply["message"]
            self.result.rounds.clear()
            self.result.means.clear()
        else:
            self.result.repeats = reply["repeats"]
            self.result.rounds.append(reply["step"])
            self.result.means += [reply["mean"]] if "mean" in reply else []

    def close(self) -> None:
        """End the process: it has no more to read."""
        with suppress(BrokenPipeError), self.process:
            pass

    def _start(self) -> subprocess.Popen[str]:
        variables = ("OMP_NUM_THREADS", "NUMBA_NUM_THREADS", "OPENBLAS_NUM_THREADS")
        return subprocess.Popen(
            [sys.executable, "-m", "bench.worker", self.contender, str(self.threads)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env=os.environ
            | dict.fromkeys(variables, str(self.threads))
            | CONTENDERS[self.contender].variables,
        )

    def _send(self, **request: Any) -> None:
        assert self.process.stdin is not None
        with suppress(BrokenPipeError):  # _reply tells
            print(json.dumps(request), file=self.process.stdin, flush=True)

    def _reply(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            message = f"its process ended with exit status {self.process.wait()}"
            return {"status": "failed", "message": message}
        reply: dict[str, Any] = json.loads(line)
        return reply


Progress = Callable[[str], None]


@dataclass(frozen=True)
class Effort:
    """The duration of the timing of a contender on a workload."""

    rounds: int
    seconds: float  # of a round


def measure(
    workloads: Sequence[Workload],
    contenders: Sequence[str],
    counts: Sequence[int],
    effort: Effort,
    progress: Progress,
) -> list[Result]:
    """Time the contenders on the workloads, with each number of threads.

    Each number has its own processes.
    """
    if len(counts) == 1:
        return _measure(workloads, contenders, counts[0], effort, progress)
    results = []
    for threads in counts:
        progress(f"{threads} threads")
        found = _measure(workloads, contenders, threads, effort, progress)
        results += [replace(r, workload=f"{r.workload}@{threads}") for r in found]
    return results


def _measure(
    workloads: Sequence[Workload],
    contenders: Sequence[str],
    threads: int,
    effort: Effort,
    progress: Progress,
) -> list[Result]:
    """Time, on each workload, the contenders that support its optimizer."""
    results = []
    with ExitStack() as stack:
        workers = [Worker(name, threads) for name in contenders]
        for worker in workers:
            stack.callback(worker.close)
        for workload in workloads:
            known = [w for w in workers if _is_timed(w.contender, workload)]
            _prepare(known, workload, progress)
            for number in range(effort.rounds):
                progress(f"{workload.name}: round {number + 1}/{effort.rounds}")
                ready = [w for w in known if w.result.status == "ready"]
                _take_turns(ready, number, effort, CONTEXTS[workload.context].settle)
            results += [worker.result for worker in known]
    return results


def _is_timed(contender: str, workload: Workload) -> bool:
    row = CONTENDERS[contender]
    return row.knows(workload.optimizer) and row.fits(workload)


def _prepare(workers: Sequence[Worker], workload: Workload, progress: Progress) -> None:
    """Build all steps at the same time; validate only as many at once as have processors.

    If threads of two steps share a processor, a step can take a thousand times as long,
    because its threads wait for each other by spinning.
    """
    progress(f"{workload.name}: building {', '.join(w.contender for w in workers)}")
    for worker in workers:
        worker.prepare(workload)
    for worker in workers:
        worker.wait()
    progress(f"{workload.name}: validating")
    built = [w for w in workers if w.result.status == "built"]
    together = max(1, _processors() // max((w.threads for w in built), default=1))
    for first in range(0, len(built), together):
        group = built[first : first + together]
        for worker in group:
            worker.validate()
        for worker in group:
            worker.wait()


def _processors() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _take_turns(workers: Sequence[Worker], number: int, effort: Effort, settle: float) -> None:
    """Time a round of each, in an order that changes from round to round."""
    for worker in random.Random(number).sample(workers, len(workers)):
        time.sleep(settle)
        worker.round(effort.seconds)
