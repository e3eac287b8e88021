"""The memory that Adam adds to a program, measured in a separate process.

tracemalloc counts allocations of Python and NumPy; the resident set counts all memory.
Parameters and gradients are allocated before the first measurement.
"""

from __future__ import annotations

import gc
import tracemalloc
from pathlib import Path
from typing import NamedTuple

import numpy as np

import cyoptim
from bench.workloads import Workload, named

STATE_BYTES = 8
"""exp_avg and exp_avg_sq, float32, per parameter."""


class Added(NamedTuple):
    """Bytes added since before the optimizer; None if not measured."""

    moment: str
    traced: int
    resident: int | None


def resident() -> int:
    """Bytes of physical memory in use; 0 if the system does not report them."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return 0
    sizes = [line.split()[1] for line in lines if line.startswith("VmRSS:")]
    return int(sizes[0]) * 1024


def traced() -> int:
    """Bytes allocated by Python and NumPy."""
    gc.collect()
    return tracemalloc.get_traced_memory()[0]


def measure(workload: Workload) -> list[Added]:
    """Construct Adam and step it ten times."""
    params, grads = workload.random(0), workload.random(1)
    warm = np.ones(100_000, np.float32)
    cyoptim.Adam([warm]).step(grads=[warm.copy()])  # starts threads and imports modules
    tracemalloc.start()
    base = traced(), resident()
    found = []

    def note(moment: str) -> None:
        found.append(Added(moment, traced() - base[0], resident() - base[1]))

    optimizer = cyoptim.Adam(params)
    note("optimizer constructed")
    optimizer.step(grads=grads)
    note("after the first step")
    for _ in range(9):
        optimizer.step(grads=grads)
    note("after ten steps")
    peak = tracemalloc.get_traced_memory()[1] - base[0]
    tracemalloc.stop()
    return [*found, Added("at the peak", peak, None)]


def main() -> None:
    workload = named("1x16M")
    found = measure(workload)
    print(f"{workload.title}: bytes per parameter that the optimizer adds,")
    print(f"and what of them is not in the two state arrays ({STATE_BYTES} bytes)")
    print(f"{'':24}{'traced':>10}{'beyond':>10}{'resident':>10}{'beyond':>10}")
    for added in found:
        state = 0 if added.moment == "optimizer constructed" else STATE_BYTES
        cells = ""
        for number in (added.traced, added.resident):
            if number is not None:
                each = number / workload.elements
                cells += f"{each:10.4f}{each - state:10.4f}"
        print(f"{added.moment:24}{cells}")


if __name__ == "__main__":
    main()
