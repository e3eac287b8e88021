"""Starts the workers, and asks one after the other for a round."""

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
    def quartile(self) -> float:
        """The third best of ten rounds: neither a lucky one nor most disturbed ones move it."""
        return sorted(self.rounds)[(len(self.rounds) - 1) // 4]

    @property
    def spread(self) -> float:
        """The median round over the best one: what noise does to a number."""
        return statistics.median(self.rounds) / self.best


class Worker:
    """The process of one contender. It outlives a workload, because libraries load slowly."""

    def __init__(self, contender: str, threads: int) -> None:
        self.contender, self.threads = contender, threads
        self.process = self._start()

    def prepare(self, workload: Workload) -> None:
        """Ask for a workload: its process begins to build and validate the step."""
        if self.process.poll() is not None:
            self.close()
            self.process = self._start()
        self.result = Result(workload.name, self.contender, "started")
        self._send(workload=workload.name)

    def wait(self) -> None:
        """Wait until the step is validated, or until it is known why it is not."""
        reply = self._reply()
        self.result.status, self.result.message = reply["status"], reply["message"]
        packages = " ".join(CONTENDERS[self.contender].packages)
        if self.result.status == "missing" and packages:
            self.result.message += f" (pip install {packages})"

    def round(self, seconds: float) -> None:
        """Time one round. Who fails has no result, and is not asked again."""
        self._send(seconds=seconds)
        reply = self._reply()
        if reply.get("status") == "failed":
            self.result.status, self.result.message = "failed", reply["message"]
            self.result.rounds.clear()
        else:
            self.result.repeats = reply["repeats"]
            self.result.rounds.append(reply["step"])

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
            env=os.environ | dict.fromkeys(variables, str(self.threads)),
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


def measure(
    workloads: Sequence[Workload],
    contenders: Sequence[str],
    *,
    threads: int,
    rounds: int,
    seconds: float,
    progress: Callable[[str], None],
) -> list[Result]:
    """Time the contenders on the workloads, on each those that know its optimizer."""
    results = []
    with ExitStack() as stack:
        workers = [Worker(name, threads) for name in contenders]
        for worker in workers:
            stack.callback(worker.close)
        for workload in workloads:
            known = [w for w in workers if CONTENDERS[w.contender].knows(workload.optimizer)]
            _validate(known, workload, progress)
            for number in range(rounds):
                progress(f"{workload.name}: round {number + 1}/{rounds}")
                _take_turns([w for w in known if w.result.status == "ready"], number, seconds)
            results += [worker.result for worker in known]
    return results


def _validate(
    workers: Sequence[Worker], workload: Workload, progress: Callable[[str], None]
) -> None:
    """Let all build and validate their steps at the same time."""
    progress(f"{workload.name}: validating {', '.join(w.contender for w in workers)}")
    for worker in workers:
        worker.prepare(workload)
    for worker in workers:
        worker.wait()


def _take_turns(workers: Sequence[Worker], number: int, seconds: float) -> None:
    """Time a round of each, in an order of this round: nobody always follows the same one."""
    for worker in random.Random(number).sample(workers, len(workers)):
        time.sleep(SETTLE)
        worker.round(seconds)
