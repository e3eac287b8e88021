"""What one contender adds to the memory of each process, in processes of its own.

Gradients are there before the first measurement; parameters, state, buffers of the exchange and
those of the library come between it and the peak.
"""

from __future__ import annotations

import gc
import importlib
import json
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import cyoptim
from bench.memory import resident
from bench.ranks.contenders import STEPS, Process
from bench.ranks.program import COMM, build, load, torch_group
from bench.ranks.study import Held
from bench.ranks.workloads import workload_of
from bench.roof import Unavailable

COUNT = 3
"""Steps until the peak is read."""


def begin_peak() -> None:
    """Forget the peak of before, where the system can."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return


def peak() -> int:
    """The most bytes of physical memory so far; 0 if the system does not report them."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:")), 0)


def import_and_start(contender: str, process: Process) -> None:
    """Have what a program has anyhow: the library's buffers, and torch."""
    small = process.grads[-1].copy()
    COMM.Allreduce(small, small.copy())
    if STEPS[contender].packages:
        with suppress(Unavailable, ImportError):  # of which the builder tells
            torch_group().all_reduce(importlib.import_module("torch").from_numpy(small))
            importlib.import_module("torch.distributed.optim")


def measure(library: str, name: str, contender: str) -> Held:
    """Make the optimizer and step a few times."""
    workload = workload_of(name)
    process = Process(COMM, workload, workload.random(1), torch_group)
    load(process, 0)
    import_and_start(contender, process)
    gc.collect()
    begin_peak()
    before = resident()
    step, status, message = build(contender, process)
    result = Held(library, COMM.size, name, contender, status, message)
    if step is None:
        return result
    for _ in range(COUNT):
        step.step()
    result.state = max(COMM.allgather(sum(array.nbytes for array in step.state())))
    grown = COMM.allgather(peak() - before)
    result.resident = max(grown) if before else None
    return result


def main(request: dict[str, Any]) -> None:
    cyoptim.set_num_threads(1)
    found = measure(request["library"], request["workload"], request["contender"])
    if COMM.rank == 0:
        Path(request["path"]).write_text(json.dumps([vars(found)]))


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
