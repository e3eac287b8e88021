"""What was measured, in a file of JSON."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any


@dataclass
class Timed:
    """A contender in so many processes: the seconds of each round, or the reason for none."""

    library: str  # of MPI
    ranks: int
    workload: str
    contender: str
    status: str
    message: str = ""
    rounds: list[float] = field(default_factory=list)

    @property
    def best(self) -> float:
        return min(self.rounds)

    @property
    def spread(self) -> float:
        """The median round over the best one: the effect of noise."""
        return statistics.median(self.rounds) / self.best


@dataclass
class Held:
    """The memory of an optimizer in so many processes: of the one that has most, in bytes."""

    library: str
    ranks: int
    workload: str
    contender: str
    status: str
    message: str = ""
    state: int = 0
    resident: int | None = None  # at the peak, more than before parameters were made


@dataclass
class Study:
    """The results of a run, and its environment."""

    environment: dict[str, Any]
    times: list[Timed]
    memory: list[Held]

    def save(self, path: Path) -> None:
        """Write JSON, a result a line."""
        facts = json.dumps(self.environment, indent=1)
        parts = ",\n".join(
            f'"{name}": [\n{_lines(getattr(self, name))}\n]' for name in ("times", "memory")
        )
        path.write_text(f'{{"environment": {facts},\n{parts}}}\n')

    @classmethod
    def load(cls, path: Path) -> Study:
        content = json.loads(path.read_text())
        times = [Timed(**entry) for entry in content["times"]]
        memory = [Held(**entry) for entry in content["memory"]]
        return cls(content["environment"], times, memory)

    @property
    def libraries(self) -> list[str]:
        """Those that have run."""
        return list(dict.fromkeys(timed.library for timed in self.times))

    def of(self, library: str, ranks: int, workload: str) -> dict[str, Timed]:
        """The contenders that were timed there, by their names."""
        return {
            timed.contender: timed
            for timed in self.times
            if (timed.library, timed.ranks, timed.workload) == (library, ranks, workload)
            and timed.rounds
        }

    def places(self) -> Iterator[tuple[str, int, str]]:
        """Libraries, numbers of processes and workloads of which there are times."""
        timed = [each for each in self.times if each.rounds]
        yield from dict.fromkeys((each.library, each.ranks, each.workload) for each in timed)

    @property
    def problems(self) -> list[str]:
        """Why contenders were not timed, and where."""
        found: dict[tuple[str, str], tuple[list[str], list[str]]] = {}
        for each in [*self.times, *self.memory]:
            if each.status != "ready":
                names, places = found.setdefault((each.status, each.message), ([], []))
                names.append(each.contender)
                places.append(f"{each.library}, {processes(each.ranks)}, {each.workload}")
        return [
            f"{'; '.join(dict.fromkeys(names))}: {status}: {message} "
            f"({'; '.join(dict.fromkeys(places))})"
            for (status, message), (names, places) in found.items()
        ]


def processes(count: int) -> str:
    """So many processes, in words."""
    return f"{count} process{'es' * (count > 1)}"


def _lines(entries: list[Any]) -> str:
    return ",\n".join(json.dumps(_rounded(asdict(entry))) for entry in entries)


def _rounded(entry: dict[str, Any]) -> dict[str, Any]:
    """Five digits of each round."""
    rounds = [float(f"{value:.5g}") for value in entry.get("rounds", ())]
    return entry | ({"rounds": rounds} if "rounds" in entry else {})
