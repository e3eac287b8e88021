"""One contender in a process of its own: builds its step, validates it, and times it when asked.

The protocol is JSON lines. A line ``{"workload": name}`` asks to build and validate a step, and is
answered by ``{"status": "ready"}``, or another status with a message. Then each ``{"seconds": s}``
asks for a round of about that duration, and is answered by ``{"step": seconds per step, "repeats":
steps}``. Between requests the worker sleeps in a read, so that it takes nothing from the others.
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

from bench.contenders import CONTENDERS
from bench.roof import Unavailable
from bench.subject import Reloaded, Subject
from bench.workloads import WORKLOADS, Arrays, Expected, Workload

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
    if workload.zeros:
        load(subject, [np.zeros_like(g) for g in subject.grads])
        duration(subject.step, workload.zeros)
    return subject


def load(subject: Subject, gradients: Arrays) -> None:
    """Give the step these gradients."""
    for grad, values in zip(subject.grads, gradients, strict=True):
        grad[...] = values
    if subject.load:
        subject.load()


def validate(subject: Subject, workload: Workload) -> None:
    """Compare some steps, each with new gradients, with the float64 reference."""
    expected = Expected(subject.reference, subject.params)
    for number in range(STEPS):
        load(subject, workload.random(2 + number))
        subject.step()
        expected.step(subject.grads)
    error = expected.error(subject.result() if subject.result else subject.params)
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
    if isinstance(step, Reloaded):
        return sum(step.timed() for _ in range(count))
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


def time_round(step: Callable[[], Any], seconds: float) -> dict[str, Any]:
    """Time a round, and answer with it."""
    count = steps_within(step, seconds / BATCHES)
    duration(step, 2 * count)  # caches and threads are cold after the others' turns
    median, repeats = typical(step, count, seconds)
    gc.collect()  # now, because after the reply it would run in the next one's turn
    return {"step": median, "repeats": repeats}


def start(name: str, workload: Workload, threads: int) -> tuple[Subject | None, dict[str, Any]]:
    """A contender's step, if it is valid, and the answer that says so."""
    try:
        with np.errstate(all="ignore"):
            return prepare(name, workload, threads), {"status": "ready", "message": ""}
    except ImportError as error:
        return None, {"status": "missing", "message": str(error)}
    except Unavailable as error:
        return None, {"status": "unavailable", "message": str(error)}
    except Invalid as error:
        return None, {"status": "invalid", "message": str(error)}


def serve(name: str, threads: int, requests: TextIO, replies: TextIO) -> None:
    """Answer every line that comes, until there are no more."""
    gc.disable()  # as timeit does: a collection would be counted for whoever it happens to hit
    subject: Subject | None = None
    for line in requests:
        request = json.loads(line)
        if "workload" in request:
            subject = None
            gc.collect()  # the memory of the last one, before there is that of the next
            subject, reply = start(name, WORKLOADS[request["workload"]], threads)
        else:
            assert subject is not None
            reply = time_round(subject.step, request["seconds"])
        print(json.dumps(reply), file=replies, flush=True)


def main(name: str, threads: str) -> None:
    # What libraries print must not come between the replies.
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    serve(name, int(threads), sys.stdin, replies)


if __name__ == "__main__":
    main(*sys.argv[1:])
