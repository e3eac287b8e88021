"""What each process runs: validates contenders and times them, one after the other.

All processes go through the same contenders in the same order. A step begins after a barrier, and
takes as long as the slowest process. The first process writes what it has found as JSON.
"""

from __future__ import annotations

import gc
import json
import math
import random
import statistics
import sys
import tempfile
from collections.abc import Callable, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
from mpi4py import MPI

import cyoptim
from bench.ranks.contenders import STEPS, Expectation, Process, Step
from bench.ranks.parts import PARTS
from bench.ranks.study import Timed
from bench.ranks.workloads import workload_of
from bench.roof import Unavailable
from bench.subject import reference
from bench.workloads import Array, Arrays, Expected, Workload

COMM = MPI.COMM_WORLD
CHECKED = 3
"""Steps that are compared with the reference."""


@cache
def torch_group() -> Any:
    """torch's default process group, of the same processes."""
    try:
        import torch.distributed as dist
    except ImportError as error:
        raise Unavailable("it needs torch (pip install torch)") from error
    folder = COMM.bcast(tempfile.mkdtemp() if COMM.rank == 0 else None)
    store = dist.FileStore(str(Path(folder, "store")), COMM.size)
    dist.init_process_group("gloo", store=store, rank=COMM.rank, world_size=COMM.size)
    return dist


def process_of(workload: Workload) -> Process:
    """What this process has."""
    process = Process(COMM, workload, workload.random(0), torch_group)
    load(process, 0)
    return process


def load(process: Process, number: int) -> None:
    """Give each process gradients of its own."""
    fill(process.workload, process.grads, number, COMM.rank)


def fill(workload: Workload, grads: Arrays, number: int, rank: int) -> None:
    """The gradients of a process. They have the same signs in all: where sums almost vanish,
    rounding could turn a step of Adam around."""
    workload.fill(grads, 1 + number)
    for grad in grads:
        grad *= 1 + rank


def build(name: str, process: Process) -> tuple[Step | None, str, str]:
    """A contender's step on all processes, or on none; and its status."""
    row = STEPS.get(name) or PARTS[name]
    step, status, message = None, "ready", ""
    try:
        step = row.build(process)
    except Unavailable as error:
        status, message = "unavailable", str(error)
    except ImportError as error:
        status, message = "missing", str(error)
    for other in COMM.allgather((status, message)):
        if other[0] != "ready":
            return None, *other
    return step, status, message


# --- validation -----------------------------------------------------------------------------------


def expected_of(workload: Workload, asked: Expectation) -> Expected:
    """What parameters are after some steps along the means of all gradients."""
    params = workload.random(0)
    if asked.rounds_params:
        params = [rounded(param) for param in params]
    expected = Expected(reference("AdamW"), params, workload.period)
    for number in range(CHECKED):
        means = means_of(workload, number, asked.rounds_grads)
        if asked.max_norm is not None:
            norm = math.sqrt(sum(float(np.vdot(mean, mean)) for mean in means))
            for mean in means:
                mean *= asked.max_norm / norm
        expected.step(means)
    return expected


def means_of(workload: Workload, number: int, rounds: bool) -> Arrays:
    """The means of the gradients of all processes."""
    grads = [np.empty(shape, np.float32) for shape in workload.shapes]
    means = [np.zeros_like(grad) for grad in grads]
    for rank in range(COMM.size):
        fill(workload, grads, number, rank)
        for mean, grad in zip(means, grads, strict=True):
            mean += (rounded(grad) if rounds else grad) / np.float32(COMM.size)
    return means


def rounded(array: Array) -> Array:
    """Values as bfloat16 has them."""
    import ml_dtypes

    return array.astype(ml_dtypes.bfloat16).astype(np.float32)


def error_of(step: Step, process: Process, expected: Expected) -> float:
    """How far a contender is from it, on any process, in units of its tolerance."""
    for number in range(CHECKED):
        load(process, number)
        if step.load:
            step.load()
        step.step()
    found = [np.asarray(param, np.float32) for param in step.params or ()]
    error = expected.error(found) / step.tolerance if found else 0.0
    return float(max(COMM.allgather(error)))


# --- times ----------------------------------------------------------------------------------------


def seconds_of(step: Callable[[], Any]) -> float:
    """A step's time, on the process where it takes longest."""
    COMM.Barrier()
    start = MPI.Wtime()
    step()
    return COMM.allreduce(MPI.Wtime() - start, MPI.MAX)


def time_rounds(steps: dict[str, Step], rounds: int, count: int) -> dict[str, list[float]]:
    """Each round has all contenders, in another order; of each one untimed step, then some."""
    found: dict[str, list[float]] = {name: [] for name in steps}
    shuffled = random.Random(0)  # the same in all processes
    for _ in range(rounds):
        for name in shuffled.sample(list(steps), len(steps)):
            steps[name].step()
            times = [seconds_of(steps[name].step) for _ in range(count)]
            found[name].append(statistics.median(times))
        gc.collect()
    return found


def measure(library: str, name: str, asked: Sequence[str], rounds: int, count: int) -> list[Timed]:
    """Time these contenders on a workload."""
    workload = workload_of(name)
    process = process_of(workload)
    results: dict[str, Timed] = {}
    steps: dict[str, Step] = {}
    expected = cache(partial(expected_of, workload))
    for contender in asked:
        step, status, message = build(contender, process)
        if step is not None and step.params is not None:
            error = error_of(step, process, expected(step.expected))
            if not error <= 1:
                status, message = "invalid", f"it is off by {error:.3g} times the tolerance"
        results[contender] = Timed(library, COMM.size, name, contender, status, message)
        if step is not None and status == "ready":
            steps[contender] = step
    load(process, 0)
    gc.collect()
    gc.disable()
    for contender, times in time_rounds(steps, rounds, count).items():
        results[contender].rounds = times
    gc.enable()
    return list(results.values())


def main(request: dict[str, Any]) -> None:
    cyoptim.set_num_threads(1)
    found: list[Timed] = []
    for name, contenders in request["workloads"].items():
        found += measure(request["library"], name, contenders, request["rounds"], request["count"])
        if COMM.rank == 0:
            Path(request["path"]).write_text(json.dumps([vars(timed) for timed in found]))


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
