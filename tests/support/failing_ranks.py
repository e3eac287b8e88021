"""Four processes of which one fails: `mpiexec -n 4 python -m mpi4py tests/support/failing_ranks.py HOW`."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable

import numpy as np
from mpi4py import MPI

from cyoptim.distributed import RankError
from cyoptim.distributed._agreement import Ranks
from cyoptim.distributed._communicators import as_communicator

STEPS, FAILING = 20, 1
LENGTH = 1 << 16
comm = as_communicator(MPI.COMM_WORLD)
ranks = Ranks(comm)
how = sys.argv[1]


def say(text: str) -> None:
    print(f"rank {comm.rank}: {text}\n", end="", flush=True)  # one write: others print, too


def kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def fail() -> None:
    raise ValueError("the gradient of parameter 3 is no array")


def leave() -> None:
    sys.exit(3)


def interrupt() -> None:
    signal.raise_signal(signal.SIGINT)


# What happens between two steps, or in one before its exchanges or after them, and in which.
BETWEEN: dict[str, Callable[[], None]] = {"kill": kill, "raise": fail, "exit": leave}
BEFORE = {"catch": {8: fail, 10: interrupt}, "uncaught": {10: fail}, "kill in a step": {10: kill}}
AFTER = {"catch": {12: fail, 14: interrupt}}
SHORT = {"catch": 16}


def step(number: int) -> None:
    """One exchange between two agreements, as an optimizer makes it."""
    fails = comm.rank == FAILING
    if fails:
        BEFORE.get(how, {}).get(number, int)()
    length = LENGTH // 2 if fails and SHORT.get(how) == number else LENGTH
    received = np.full(length, number, np.uint8)
    places = [
        (rank * length // comm.size, (rank + 1) * length // comm.size) for rank in range(comm.size)
    ]
    ranks.agree({"step": number, "length": length})
    others = [rank for rank in range(comm.size) if rank != comm.rank]
    own = received[slice(*places[comm.rank])].copy()
    pieces = [(rank, received[slice(*places[rank])]) for rank in others]
    comm.exchange([(rank, own) for rank in others], pieces).wait()
    if fails:
        AFTER.get(how, {}).get(number, int)()
    ranks.ready()
    comm.allgather(received, places).wait()


for number in range(STEPS):
    if number == 10 and comm.rank == FAILING:
        say(f"time {time.time()}")
        BETWEEN.get(how, int)()
    try:
        ranks.together("step", step, number)
    except (RankError, ValueError, KeyboardInterrupt) as error:
        say(f"{number}: {type(error).__name__}: {error}")
        if how == "uncaught":
            raise
say("done")
