"""The model beside what was measured on one machine, and what was demanded.

On one machine all processes share the memory, and each exchange is a copy in it. What parts of a
step move in a second is taken from two processes, and from one for the step alone; the model then
tells the time of whole steps in any number. More processes than that do not make memory faster.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from bench.ranks.contenders import ALLREDUCE, REPLICATED, SHARDED
from bench.ranks.model import Network
from bench.ranks.parts import FLOAT, MOVING, PARTS, STEP_PART, stepped, to_all
from bench.ranks.study import Study
from bench.ranks.workloads import workload_of

BASE = 2
"""The number of processes from which rates are taken."""


@dataclass(frozen=True)
class Machine:
    """Bytes per second of all processes together, part by part, as one library moves them."""

    n: int
    alone: float  # in a step of one process
    rates: dict[str, float]  # in two
    allreduce: float  # received

    @classmethod
    def of(cls, study: Study, library: str, workload: str) -> Machine | None:
        """What was measured; None if some of it was not."""
        one, two = study.of(library, 1, workload), study.of(library, BASE, workload)
        if STEP_PART not in one or not {*MOVING, ALLREDUCE} <= {*two}:
            return None
        n = workload_of(workload).elements
        rates = {name: BASE * PARTS[name].bytes(n, BASE) / two[name].best for name in MOVING}
        return cls(
            n,
            stepped(n, 1) / one[STEP_PART].best,
            rates,
            BASE * 2 * to_all(n, BASE) / two[ALLREDUCE].best,
        )

    def sharded(self, ranks: int) -> float:
        """The seconds of a sharded step."""
        if ranks == 1:
            return stepped(self.n, 1) / self.alone
        return sum(ranks * PARTS[name].bytes(self.n, ranks) / self.rates[name] for name in MOVING)

    def replicated(self, ranks: int) -> float:
        """Those of an Allreduce, which one process makes by a copy, and a full step."""
        if ranks == 1:
            return (stepped(self.n, 1) + 2 * FLOAT * self.n) / self.alone
        added = ranks * 2 * to_all(self.n, ranks) / self.allreduce
        return added + ranks * stepped(self.n, 1) / self.rates[STEP_PART]

    def network(self, name: str, speed: float) -> Network:
        """A network between processes that move as much in their memory as one of two here."""
        return Network(name, speed, self.rates[STEP_PART] / BASE)


@dataclass(frozen=True)
class Compared:
    """A step of so many processes."""

    library: str
    workload: str
    contender: str
    ranks: int
    measured: float
    model: float


def compared(study: Study) -> Iterator[Compared]:
    """The model beside what was measured."""
    for library in study.libraries:
        for workload in dict.fromkeys(each.workload for each in study.times):
            machine = Machine.of(study, library, workload)
            if machine is None:
                continue
            for name, model in ((SHARDED, machine.sharded), (REPLICATED, machine.replicated)):
                for ranks in dict.fromkeys(each.ranks for each in study.times):
                    timed = study.of(library, ranks, workload).get(name)
                    if timed:
                        best = timed.best
                        yield Compared(library, workload, name, ranks, best, model(ranks))


def machine_of(study: Study) -> Machine | None:
    """The first that was measured."""
    for library, _, workload in study.places():
        machine = Machine.of(study, library, workload)
        if machine is not None:
            return machine
    return None


# --- what was demanded ----------------------------------------------------------------------------


@dataclass(frozen=True)
class Demand:
    """How many times as long as another one a sharded step may take, in two processes."""

    against: str
    bound: float
    workload: str = "1x16M"

    def measured(self, study: Study, library: str) -> float | None:
        """How many times as long it takes."""
        found = study.of(library, BASE, self.workload)
        if SHARDED in found and self.against in found:
            return found[SHARDED].best / found[self.against].best
        return None


DEMANDS = (Demand(ALLREDUCE, 0.8), Demand(REPLICATED, 0.6))
