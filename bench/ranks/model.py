"""The time of a step by what is moved: over networks, and in the memory of one machine.

n elements of float32 on P processes. Of a sharded step every process receives 4 n (P - 1) / P bytes
of gradients and as many of parameters, adds P pieces of n / P elements up, and steps n / P. An
Allreduce receives both, too, but in the order of a ring, so that n / P elements are added P - 1
times; and then n are stepped. ZeroRedundancyOptimizer steps n / P after an Allreduce, and sends the
parameters on. Nothing overlaps in the model, and all processes wait for each other.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import ceil, log2

from bench.ranks.parts import FLOAT, GATHER, STEP_PART, SUM, TO_ALL, stepped, summed, to_all
from cyoptim.distributed._exchange import usual_bucket

Phases = dict[str, float]
"""Seconds of each phase of a step."""


@dataclass(frozen=True)
class Network:
    """What a process can do.

    Attributes
    ----------
    name : str
    speed : float
        Bytes per second that it receives while it sends as many.
    memory : float
        Bytes per second that it reads and writes in its memory.
    latency : float
        Seconds of a message, besides its bytes.
    """

    name: str
    speed: float
    memory: float
    latency: float = 2e-6


def sharded(n: int, ranks: int, network: Network) -> Phases:
    """A step of Sharded."""
    messages = ceil(FLOAT * n / usual_bucket(ranks)) * (ranks - 1)
    travel = to_all(n, ranks) / network.speed + messages * network.latency
    return {
        TO_ALL: travel,
        SUM: summed(n, ranks) / network.memory,
        STEP_PART: stepped(n, ranks) / network.memory,
        GATHER: travel,
    }


def allreduce(n: int, ranks: int, network: Network) -> float:
    """A ring: twice n / P elements go around, and are added to those of each process once."""
    travel = 2 * (to_all(n, ranks) / network.speed + (ranks - 1) * network.latency)
    return travel + 3 * to_all(n, ranks) / network.memory


def replicated(n: int, ranks: int, network: Network) -> Phases:
    """An Allreduce, and the step of all on every process."""
    return {
        "Allreduce": allreduce(n, ranks, network),
        "step": stepped(n, 1) / network.memory,
    }


def redundant(n: int, ranks: int, network: Network) -> Phases:
    """ZeroRedundancyOptimizer, with parts of one size: one broadcast from each process."""
    messages = ranks * ceil(log2(ranks)) if ranks > 1 else 0
    return {
        "Allreduce": allreduce(n, ranks, network),
        "step": stepped(n, ranks) / network.memory,
        "broadcasts": to_all(n, ranks) / network.speed + messages * network.latency,
    }


WAYS: dict[str, Callable[[int, int, Network], Phases]] = {
    "Allreduce and full step": replicated,
    "ZeroRedundancyOptimizer": redundant,
    "Sharded": sharded,
}


def seconds(way: str, n: int, ranks: int, network: Network) -> float:
    """The time of a step."""
    return sum(WAYS[way](n, ranks, network).values())
