"""Starts the workers of a workload and asks one after the other for a round."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.contenders import CONTENDERS
from bench.workloads import Workload

ROOT = Path(__file__).parents[1]

SETTLE = 0.03
"""Seconds before a round, in which the threads of the one before stop to spin and fall asleep."""


@dataclass
class Result:
    """A contender on a workload: the seconds per step of every round, or why there are none."""

    workload: str
    contender: str
    status: str
    message: str = ""
    repeats: int = 0
    rounds: list[float] = field(default_factory=list)

    @property
    def best(self) -> float:
        return min(self.rounds)

    @property
    def spread(self) -> float:
        """The median round over the best one: what noise does to a number."""
        return statistics.median(self.rounds) / self.best


class Worker:
    """The process of one contender."""

    def __init__(self, contender: str, workload: Workload, threads: int) -> None:
        variables = ("OMP_NUM_THREADS", "NUMBA_NUM_THREADS", "OPENBLAS_NUM_THREADS")
        self.process = subprocess.Popen(
            [sys.executable, "-m", "bench.worker", contender, workload.name, str(threads)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env=os.environ | dict.fromkeys(variables, str(threads)),
        )
        self.result = Result(workload.name, contender, "started")

    def wait(self) -> None:
        """Wait until it is validated, or until it is known why it is not."""
        reply = self._reply()
        self.result.status, self.result.message = reply["status"], reply["message"]
        packages = " ".join(CONTENDERS[self.result.contender].packages)
        if self.result.status == "missing" and packages:
            self.result.message += f" (pip install {packages})"

    def round(self, seconds: float) -> None:
        """Time one round. Who fails has no result, and is not asked again."""
        assert self.process.stdin is not None
        with suppress(BrokenPipeError):
            print(json.dumps({"seconds": seconds}), file=self.process.stdin, flush=True)
        reply = self._reply()
        if reply.get("status") == "failed":
            self.result.status, self.result.message = "failed", reply["message"]
            self.result.rounds.clear()
        else:
            self.result.repeats = reply["repeats"]
            self.result.rounds.append(reply["step"])

    def _reply(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            message = f"its process ended with exit status {self.process.wait()}"
            return {"status": "failed", "message": message}
        reply: dict[str, Any] = json.loads(line)
        return reply


def measure(
    workload: Workload,
    contenders: Sequence[str],
    *,
    threads: int,
    rounds: int,
    seconds: float,
    progress: Callable[[str], None],
) -> list[Result]:
    """Validate the contenders that know the workload's optimizer, and time them in turn."""
    known = [name for name in contenders if CONTENDERS[name].knows(workload.optimizer)]
    workers = []
    with ExitStack() as stack:
        stack.enter_context(suppress(BrokenPipeError))  # from closing the pipe of one that failed
        progress(f"{workload.name}: validating {', '.join(known)}")
        for name in known:
            workers.append(Worker(name, workload, threads))
            stack.enter_context(workers[-1].process)  # leaving it ends the worker
        for worker in workers:
            worker.wait()
        for number in range(rounds):
            progress(f"{workload.name}: round {number + 1}/{rounds}")
            _take_turns([w for w in workers if w.result.status == "ready"], number, seconds)
    return [worker.result for worker in workers]


def _take_turns(workers: Sequence[Worker], first: int, seconds: float) -> None:
    """Time a round of each, beginning with another one each time."""
    for place in range(len(workers)):
        time.sleep(SETTLE)
        workers[(first + place) % len(workers)].round(seconds)
