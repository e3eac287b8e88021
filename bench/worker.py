"""One contender in a process of its own: builds its step, validates it, and times it when asked.

The protocol is JSON lines. The worker first writes ``{"status": "ready"}``, or another status with
a message; then it answers each line ``{"seconds": s}``, a request for a round of about that
duration, with ``{"step": seconds per step, "repeats": steps}``. Between requests it sleeps in a
read, so that it takes nothing from the others.
"""

from __future__ import annotations

import gc
import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from itertools import repeat
from typing import Any, TextIO

import numpy as np

from bench.contenders import CONTENDERS, Subject
from bench.roof import Unavailable
from bench.workloads import WORKLOADS, Expected, Workload

STEPS = 8
"""How many steps are compared with the reference; from the sixth on, RAdam adapts."""

BATCHES, LEAST_BATCHES = 20, 5
"""Batches of a round, and how many there are at least where one step takes long."""


class Invalid(Exception):
    """A contender's result is wrong; the message says by how much."""


def prepare(name: str, workload: Workload, threads: int) -> Subject:
    """Build a contender's step and validate it; the gradients of the last step stay in place."""
    build = CONTENDERS[name].build
    subject = build(workload.optimizer, workload.random(0), workload.random(1), threads)
    validate(subject, workload)
    return subject


def validate(subject: Subject, workload: Workload) -> None:
    """Compare some steps, each with new gradients, with the float64 reference."""
    expected = Expected(subject.reference, subject.params)
    for number in range(STEPS):
        for grad, values in zip(subject.grads, workload.random(2 + number), strict=True):
            grad[...] = values
        subject.step()
        expected.step(subject.grads)
    error = expected.error(subject.params)
    if not error <= 1:
        raise Invalid(f"after {STEPS} steps it is off by {error:.3g} times the tolerance")


def steps_within(step: Callable[[], Any], seconds: float) -> int:
    """How many steps take about this long, at least one."""
    count, elapsed = 1, duration(step, 1)
    while elapsed < seconds / 4:
        count *= max(2, min(10, int(seconds / 2 / max(elapsed, 1e-7))))
        elapsed = duration(step, count)
    return max(1, round(count * seconds / elapsed))


def duration(step: Callable[[], Any], count: int) -> float:
    """The seconds that this many steps take."""
    start = time.perf_counter()
    for _ in repeat(None, count):
        step()
    return time.perf_counter() - start


def typical(step: Callable[[], Any], count: int, seconds: float) -> tuple[float, int]:
    """The seconds per step in the median batch of so many steps, and how many steps there were."""
    times: list[float] = []
    end = time.perf_counter() + seconds
    while len(times) < LEAST_BATCHES or time.perf_counter() < end:
        times.append(duration(step, count) / count)
    return statistics.median(times), count * len(times)


def serve(step: Callable[[], Any], requests: TextIO, replies: TextIO) -> None:
    """Time a round for every line that comes, until there are no more."""
    gc.disable()  # as timeit does: a collection would be counted for whoever it happens to hit
    for line in requests:
        seconds = json.loads(line)["seconds"]
        count = steps_within(step, seconds / BATCHES)
        duration(step, 2 * count)  # caches and threads are cold after the others' turns
        median, repeats = typical(step, count, seconds)
        gc.collect()  # now, because after the reply it would run in the next one's turn
        print(json.dumps({"step": median, "repeats": repeats}), file=replies, flush=True)


def main(name: str, workload: str, threads: str) -> None:
    # What libraries print must not come between the replies.
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def report(status: str, message: str = "") -> None:
        print(json.dumps({"status": status, "message": message}), file=replies, flush=True)

    try:
        with np.errstate(all="ignore"):
            subject = prepare(name, WORKLOADS[workload], int(threads))
    except (ImportError, Unavailable) as error:
        report("missing", str(error))
    except Invalid as error:
        report("invalid", str(error))
    else:
        report("ready")
        serve(subject.step, sys.stdin, replies)


if __name__ == "__main__":
    main(*sys.argv[1:])
