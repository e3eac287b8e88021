"""The parts of a sharded step over one array, each alone; and the bytes that each moves.

All move memory, through caches or not: bytes are those that one process reads and writes, or that
are read and written for it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np

import cyoptim
from bench.ranks.contenders import OPTIONS, Process, Step
from bench.roof import Unavailable, roof
from cyoptim._engine import sum_pieces
from cyoptim.distributed._agreement import Ranks
from cyoptim.distributed._buckets import as_bytes
from cyoptim.distributed._communicators import Communicator, as_communicator

FLOAT = 4
STEP = 28
"""Bytes per element of a step of AdamW: four streams are read, and three written."""


def to_all(n: int, ranks: int) -> float:
    """Bytes that one of so many processes receives when each has something for every one."""
    return FLOAT * n * (ranks - 1) / ranks


def summed(n: int, ranks: int) -> float:
    """Pieces from all are read, and one is written."""
    return FLOAT * n * (ranks + 1) / ranks if ranks > 1 else 0.0


def stepped(n: int, ranks: int) -> float:
    """A step of a part of the elements."""
    return STEP * n / ranks


def copied(n: int, ranks: int) -> float:
    """What is received is read and written."""
    return 2 * to_all(n, ranks)


# --- what is timed --------------------------------------------------------------------------------


def own_part(process: Process) -> tuple[int, int, int]:
    """The number of elements, and those that this process steps."""
    if process.workload.tensors != 1:
        raise Unavailable("it is timed over one array")
    n, rank, size = process.workload.elements, process.comm.rank, process.comm.size
    return n, n * rank // size, n * (rank + 1) // size


def several(process: Process) -> Communicator:
    """The communicator of several processes."""
    if process.comm.size == 1:
        raise Unavailable("one process has nobody to exchange with")
    return as_communicator(process.comm)


def build_to_all(process: Process) -> Step:
    """Pieces of the gradient go where they are stepped."""
    n, first, stop = own_part(process)
    communicator = several(process)
    size, rank = communicator.size, communicator.rank
    grad, buffers = process.grads[0], np.zeros((size, stop - first), np.float32)
    others = [other for other in range(size) if other != rank]
    sends = [(k, as_bytes(grad[n * k // size : n * (k + 1) // size])) for k in others]
    receives = [(k, as_bytes(buffers[k])) for k in others]
    return Step(lambda: communicator.exchange(sends, receives).wait())


def build_sum(process: Process) -> Step:
    """The pieces of all processes are added up in order, in the place of the first of them."""
    _, first, stop = own_part(process)
    size = several(process).size
    pieces = [np.ones(stop - first, np.float32) for _ in range(size - 1)]
    pieces.append(process.grads[0][first:stop])
    return Step(partial(sum_pieces, pieces[0], pieces))


def build_step(process: Process) -> Step:
    """A step of the part that this process has."""
    _, first, stop = own_part(process)
    optimizer = cyoptim.AdamW([process.params()[0][first:stop].copy()], **OPTIONS)
    return Step(partial(optimizer.step, grads=[process.grads[0][first:stop]]))


def build_gather(process: Process) -> Step:
    """All processes get what has been stepped."""
    n, _, _ = own_part(process)
    communicator = several(process)
    size = communicator.size
    places = [(FLOAT * (n * k // size), FLOAT * (n * (k + 1) // size)) for k in range(size)]
    params = as_bytes(process.params()[0])
    rows = [params[start:stop] for start, stop in places]
    others = [other for other in range(size) if other != communicator.rank]
    sends = [(other, rows[communicator.rank]) for other in others]
    receives = [(other, rows[other]) for other in others]
    return Step(lambda: communicator.exchange(sends, receives).wait())


def build_agreement(process: Process) -> Step:
    """All processes learn that all are ready for the same step."""
    ranks = Ranks(several(process))
    return Step(partial(ranks.agree, b"the same"))


def build_roof(process: Process) -> Step:
    """A loop that moves the bytes of a step of this part, on one thread."""
    _, first, stop = own_part(process)
    param, grad = (np.ones(stop - first, np.float32) for _ in range(2))
    step, owner = roof(("gPMV",), [param], [grad], 0.01, 1)
    return Step(step, state=lambda: owner[:0])


@dataclass(frozen=True)
class Part:
    """A part of a step."""

    build: Callable[[Process], Step]
    about: str
    bytes: Callable[[int, int], float] = lambda n, ranks: 0.0


TO_ALL, SUM, STEP_PART, GATHER = "all-to-all", "ordered sum", "a part's step", "all-gather"
AGREEMENT, ROOF = "agreement", "roof"
PARTS: dict[str, Part] = {
    TO_ALL: Part(build_to_all, "pieces of gradients go to the process that steps them", copied),
    SUM: Part(build_sum, "that process adds them up, in the order of the tree", summed),
    STEP_PART: Part(build_step, "and steps its part of the parameters", stepped),
    GATHER: Part(build_gather, "which then go to all", copied),
    AGREEMENT: Part(build_agreement, "what all exchange before, to know that all step alike"),
    ROOF: Part(build_roof, "a loop that moves the bytes of a part's step", stepped),
}
MOVING = (TO_ALL, SUM, STEP_PART, GATHER)
"""Those that move the bytes of a step."""


def moved(n: int, ranks: int) -> float:
    """The bytes that a sharded step moves, for each process."""
    return sum(PARTS[name].bytes(n, ranks) for name in MOVING)
