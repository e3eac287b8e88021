"""Starts the workers of a workload and asks one after the other for a round."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
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
    """The process of one contender; constructing it waits until it is validated."""

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
        status = self._reply()
        self.result = Result(workload.name, contender, status["status"], status["message"])
        packages = " ".join(CONTENDERS[contender].packages)
        if self.result.status == "missing" and packages:
            self.result.message += f" (pip install {packages})"

    def round(self, seconds: float) -> None:
        """Time one round."""
        assert self.process.stdin is not None
        print(json.dumps({"seconds": seconds}), file=self.process.stdin, flush=True)
        reply = self._reply()
        if reply.get("status") == "failed":
            raise RuntimeError(f"{self.result.contender}: {reply['message']}")
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
    """Time the contenders in turn, round by round, each round beginning with another one."""
    with ExitStack() as stack:
        workers = []
        for name in contenders:
            progress(f"{workload.name}: validating {name}")
            worker = Worker(name, workload, threads)
            stack.enter_context(worker.process)  # leaving it ends the worker
            workers.append(worker)
        ready = [worker for worker in workers if worker.result.status == "ready"]
        for number in range(rounds):
            for place in range(len(ready)):
                worker = ready[(number + place) % len(ready)]
                progress(f"{workload.name}: round {number + 1}/{rounds} {worker.result.contender}")
                time.sleep(SETTLE)
                worker.round(seconds)
    return [worker.result for worker in workers]
