"""A training that never ends by itself, for those who end one of its ranks: `python -m mpi4py FILE PATH`.

Each step is followed by a checkpoint; rank 0 prints its number when it has been written.
"""

from __future__ import annotations

import os
import sys

import numpy as np
from mpi4py import MPI

import cyoptim
from cyoptim.distributed import Sharded

SHAPES = {"W": (300, 200), "b": (200,), "V": (50_000,)}


def parameters(step: int) -> dict[str, np.ndarray]:
    """What they are after so many steps of SGD along ones."""
    return {name: np.full(shape, -float(step), "f4") for name, shape in SHAPES.items()}


def main() -> None:
    comm = MPI.COMM_WORLD
    print(f"rank {comm.rank} is {os.getpid()}", flush=True)
    params = parameters(0)
    optimizer = Sharded(params.items(), cyoptim.SGD, comm=comm, lr=1.0, momentum=0.0)
    optimizer.ema(0.0)  # an average that is the parameter itself: state to be saved
    for step in range(1, 10**9):
        optimizer.step(grads={name: np.ones_like(param) for name, param in params.items()})
        cyoptim.save(sys.argv[1], params=params, optimizer=optimizer, step=step)
        if comm.rank == 0:
            print(f"step {step}", flush=True)


if __name__ == "__main__":
    main()
