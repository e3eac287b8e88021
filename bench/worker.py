"""One contender in its own process: builds its step, validates it, and times it on request.

The protocol is JSON lines. A line ``{"workload": name}`` asks to build a step, and is answered by
``{"status": "built"}``, or another status with a message; ``{"validate": true}`` asks to validate
it, and is answered by ``{"status": "ready"}``, likewise. Then each ``{"seconds": s}`` asks for a
round of about that duration, and is answered by ``{"step": seconds per step, "repeats": steps}``,
and with the ``"mean"`` of steps that are timed one by one.
Between requests the worker sleeps in a read, to leave the processors to the others.
"""

from __future__ import annotations

import gc
import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from itertools import repeat
from typing import Any, TextIO

import numpy as np

from bench.contenders import CONTENDERS
from bench.contexts import CONTEXTS
from bench.roof import Unavailable
from bench.subject import Preceded, Subject
from bench.workloads import PERIOD, Arrays, Expected, Workload, named

STEPS = 8
"""How many steps are compared with the reference; from the sixth on, RAdam adapts."""

WHOLE_STEPS = 2
"""How many, if the reference must step more than a period, which takes seconds per step."""

BATCHES, LEAST_BATCHES = 20, 5
"""Batches of a round, and how many there are at least where one step takes long."""


class Invalid(Exception):
    """A contender's result is wrong; the message has the difference."""


def build(name: str, workload: Workload, threads: int) -> Subject:
    """A contender's step, in newly allocated memory."""
    values, slopes = workload.random(0), workload.random(1)
    subject = CONTENDERS[name].build(workload.optimizer, values, slopes, threads)
    product = CONTEXTS[workload.context].product
    return subject.after(product(threads)) if product else subject


def prepare(subject: Subject, workload: Workload) -> None:
    """Validate a step; the gradients of the last one stay in place, unless they become zero."""
    validate(subject, workload)
    if workload.zeros:
        load(subject, zero)
        duration(subject.step, workload.zeros)


def load(subject: Subject, fill: Callable[[Arrays], None]) -> None:
    """Give the step new gradients."""
    fill(subject.grads)
    if subject.load:
        subject.load()


def zero(arrays: Arrays) -> None:
    for array in arrays:
        array.fill(0)


def validate(subject: Subject, workload: Workload) -> None:
    """Compare some steps, each with new gradients, with the float64 reference."""
    expected = Expected(subject.reference, subject.params)
    steps = WHOLE_STEPS if workload.joins and workload.elements > PERIOD else STEPS
    for number in range(steps):
        load(subject, partial(workload.fill, seed=2 + number))
        subject.step()
        expected.step(subject.grads)
    error = expected.error(subject.result() if subject.result else subject.params)
    if not error <= subject.tolerance:
        raise Invalid(f"after {steps} steps it is off by {error:.3g} times the tolerance")


def steps_within(step: Callable[[], Any], seconds: float) -> int:
    """The number of steps that take about this long, at least one."""
    count, elapsed = 1, duration(step, 1)
    while elapsed < seconds / 4:
        count *= max(2, min(10, int(seconds / 2 / max(elapsed, 1e-7))))
        elapsed = duration(step, count)
    return max(1, round(count * seconds / elapsed))


def duration(step: Callable[[], Any], count: int) -> float:
    """The seconds of this many steps."""
    if isinstance(step, Preceded):
        return sum(step.timed() for _ in range(count))
    start = time.perf_counter()
    for _ in repeat(None, count):
        step()
    return time.perf_counter() - start


def batches(step: Callable[[], Any], count: int, seconds: float) -> list[float]:
    """The seconds per step of each batch of `count` steps."""
    times: list[float] = []
    end = time.perf_counter() + seconds
    while len(times) < LEAST_BATCHES or time.perf_counter() < end:
        times.append(duration(step, count) / count)
    return times


def time_round(step: Callable[[], Any], seconds: float) -> dict[str, Any]:
    """Time a round, and answer with it."""
    single = isinstance(step, Preceded)
    count = 1 if single else steps_within(step, seconds / BATCHES)
    duration(step, 2 * count)  # caches and threads are cold after the others' turns
    times = batches(step, count, seconds)
    gc.collect()  # garbage of the steps; libraries' own objects are frozen
    reply: dict[str, Any] = {"step": statistics.median(times), "repeats": count * len(times)}
    return reply | ({"mean": statistics.fmean(times)} if single else {})


Reply = dict[str, Any]


def attempt(action: Callable[[], Any], status: str) -> tuple[Any, Reply]:
    """The result of the action, and the answer: this status, or another one with its reason."""
    try:
        with np.errstate(all="ignore"):
            return action(), {"status": status, "message": ""}
    except ImportError as error:
        return None, {"status": "missing", "message": str(error)}
    except Unavailable as error:
        return None, {"status": "unavailable", "message": str(error)}
    except Invalid as error:
        return None, {"status": "invalid", "message": str(error)}


def serve(name: str, threads: int, requests: TextIO, replies: TextIO) -> None:
    """Answer every line, until the end of the input."""
    gc.disable()  # as timeit does: a collection would disturb a random measurement
    subject: Subject | None = None
    for line in requests:
        request = json.loads(line)
        if "workload" in request:
            subject = None
            gc.unfreeze()
            gc.collect()  # frees the memory of the last step, before the next is built
            workload = named(request["workload"])
            subject, reply = attempt(partial(build, name, workload, threads), "built")
        elif "validate" in request:
            assert subject is not None
            _, reply = attempt(partial(prepare, subject, workload), "ready")
            gc.collect()
            gc.freeze()  # a collection after each round would walk whole libraries
        else:
            assert subject is not None
            reply = time_round(subject.step, request["seconds"])
        print(json.dumps(reply), file=replies, flush=True)


def main(name: str, threads: str) -> None:
    # Output of libraries must not mix with the replies.
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    serve(name, int(threads), sys.stdin, replies)


if __name__ == "__main__":
    main(*sys.argv[1:])
