"""A program of several processes that save one file again and again, until one of them is killed.

`mpiexec -n 3 python -m mpi4py tests/support/saving_ranks.py FILE FIRST RANK SECONDS`
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from typing import Any

import numpy as np

import cyoptim
from cyoptim.distributed import Sharded

SIZES = (300_000, 20_000)


def main(path: str, first: int, victim: int, seconds: float) -> None:
    from mpi4py import MPI

    comm = MPI.COMM_WORLD
    params = [np.zeros(size, np.float32) for size in SIZES]
    optimizer: Any = Sharded(params, cyoptim.SGD, comm=comm, lr=0.0, momentum=0.5)
    optimizer.step(grads=params)
    comm.Barrier()
    if comm.rank == victim:
        threading.Thread(target=kill, args=(seconds,), daemon=True).start()
    for number in range(first, first + 100_000):
        for entries in optimizer.shard.state.values():
            entries["momentum_buffer"][...] = number
        for param in params:
            param[...] = number
        cyoptim.save(path, params=params, optimizer=optimizer, number=number)


def kill(seconds: float) -> None:
    time.sleep(seconds)
    print(f"time {time.time()}", flush=True)
    os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4]))
