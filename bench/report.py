"""Output of results: tables, JSON, and the comparison of two runs."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
from collections import Counter
from collections.abc import Callable, Container, Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from itertools import takewhile
from pathlib import Path
from typing import Any, TypeAlias

from bench.contenders import CONTENDERS
from bench.runner import MEAN, MEDIAN, Result, quartile
from bench.workloads import Workload, named

LEAST_NOISE = 0.02
"""Differences up to this are noise, whatever the rounds say."""


Times: TypeAlias = dict[tuple[str, str], float]
"""Seconds per step, by workload and contender, of those who were timed."""


@dataclass
class Run:
    """The results of one command, and their environment."""

    environment: dict[str, Any]
    results: list[Result]

    def save(self, path: Path) -> None:
        """Write JSON, a result a line."""
        entries = ",\n".join(json.dumps(_entry(r)) for r in self.results)
        facts = json.dumps(self.environment, indent=1)
        path.write_text(f'{{"environment": {facts},\n"results": [\n{entries}\n]}}\n')

    @classmethod
    def load(cls, path: Path) -> Run:
        content = json.loads(path.read_text())
        names = Result.__dataclass_fields__
        results = [
            Result(**{key: value for key, value in entry.items() if key in names})
            for entry in content["results"]
        ]
        for result in results:  # the file may have the name of an older version
            name, at, threads = result.workload.partition("@")
            result.workload = named(name).name + at + threads
        return cls(content["environment"], results)

    @classmethod
    def joined(cls, runs: Sequence[Run]) -> Run:
        """Runs of parts of one command, on one machine, as one."""
        facts = [run.environment for run in runs]
        left = {"date", "command", "load before"}
        kept = [{name: fact for name, fact in each.items() if name not in left} for each in facts]
        for each in kept[1:]:
            if each != kept[0]:
                raise ValueError(f"runs of one command differ in {_differing(kept[0], each)}")
        if len(commands := {run.command or "adam" for run in runs}) > 1:
            raise ValueError(f"join runs of one command, not of {' and '.join(sorted(commands))}")
        results = (result for run in runs for result in run.results)
        seen = Counter((result.workload, result.contender) for result in results)
        if twice := [" ".join(timed) for timed, count in seen.items() if count > 1]:
            raise ValueError(f"these are in several of the runs, leave out all but one: {twice}")
        load = max((each["load before"] or 0 for each in facts), default=None)
        parts = f"{_shared([each['command'] for each in facts])}, in {len(runs)} parts"
        joined = facts[0] | ({"command": parts, "load before": load} if len(runs) > 1 else {})
        return cls(joined, [result for run in runs for result in run.results])

    @property
    def command(self) -> str:
        """The command that measured it, or nothing if it is the default one."""
        return command_of(self.environment)

    def by_workload(self) -> Iterator[tuple[Workload, list[Result]]]:
        """The results of each workload, in the order in which they were timed."""
        for workload in self.workloads():
            yield workload, [r for r in self.results if named(r.workload) == workload]

    def workloads(self) -> list[Workload]:
        return list(dict.fromkeys(named(r.workload) for r in self.results))

    def best(self) -> Times:
        """The best rounds."""
        return self._times(min, MEDIAN)

    def quartiles(self, measure: str = MEDIAN) -> Times:
        """The third best rounds of ten."""
        return self._times(quartile, measure)

    def _times(self, chosen: Callable[[Sequence[float]], float], measure: str) -> Times:
        """One round of each."""
        return {
            (r.workload, r.contender): chosen(rounds)
            for r in self.results
            if (rounds := r.of(measure))
        }

    @property
    def measures(self) -> list[str]:
        """What its rounds give: the mean too, if steps are timed one by one."""
        return [MEDIAN, *[MEAN] * any(r.means for r in self.results)]

    def contenders(self, workloads: Container[str]) -> list[str]:
        """The contenders selected for any of these, in their order."""
        asked = {r.contender for r in self.results if r.workload in workloads}
        return [name for name in CONTENDERS if name in asked]


def command_of(facts: dict[str, Any]) -> str:
    """The command in an environment."""
    word = facts["command"].removeprefix("python -m bench").partition("--")[0]
    return str(word).strip()


def command_in(path: Path) -> str:
    """The command whose results a file has."""
    return command_of(json.loads(path.read_text())["environment"])


def _entry(result: Result) -> dict[str, Any]:
    """A result in JSON, with five digits of each round."""
    entry = asdict(result) | {
        name: [float(f"{value:.5g}") for value in getattr(result, name)]
        for name in ("rounds", "means")
    }
    return entry | ({"best": result.best, "spread": result.spread} if result.rounds else {})


def _differing(one: dict[str, Any], other: dict[str, Any]) -> str:
    names = [name for name in one | other if one.get(name) != other.get(name)]
    return ", ".join(f"{name} ({one.get(name)}, {other.get(name)})" for name in names)


def _shared(commands: Sequence[str]) -> str:
    """The words with which all begin, without an option whose values differ."""
    rows = zip(*(command.split() for command in commands), strict=False)
    words = [row[0] for row in takewhile(lambda row: len({*row}) == 1, rows)]
    while len(words) < len(commands[0].split()) and words[-1].startswith("--"):
        words.pop()
    return " ".join(words)


def environment(threads: int, command: str) -> dict[str, Any]:
    """The machine and the versions that the numbers depend on."""
    import cyoptim

    packages = {package for row in CONTENDERS.values() for package in row.packages}
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": command,
        "cpu": _cpu(),
        "instruction set": cyoptim._dispatch.chosen,
        "threads": threads,
        "load before": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
        "system": platform.platform(),
        "python": platform.python_version(),
        **{package: version for package in sorted(packages) if (version := _version(package))},
        "cyoptim": cyoptim.__version__,
    }


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def duration(seconds: float) -> str:
    """Three digits and a unit."""
    units = (("s", 1.0), ("ms", 1e-3), ("us", 1e-6), ("ns", 1e-9))
    unit, scale = next((row for row in units if seconds >= row[1]), units[-1])
    value = seconds / scale
    return f"{value:.{max(0, 3 - len(str(int(value))))}f} {unit}"


def duration_text(seconds: float | None) -> str:
    """Three digits and a unit, or nothing."""
    return "" if seconds is None else duration(seconds)


def ratio(number: float | None, base: float | None) -> float | None:
    """The ratio to the base, if both are known."""
    return number / base if number is not None and base is not None else None


def ratio_text(ratio: float | None) -> str:
    """Three digits, or nothing."""
    if ratio is None:
        return ""
    return f"{ratio:.2f}" if ratio < 10 else f"{ratio:.1f}" if ratio < 100 else f"{ratio:.0f}"


def problems(results: Sequence[Result]) -> list[str]:
    """Why contenders were not timed."""
    return [f"{r.contender}: {r.status}: {r.message}" for r in results if not r.rounds]


def table(header: Sequence[str], rows: Sequence[Sequence[str]], markdown: bool) -> list[str]:
    """The lines of a table, for a terminal or for GitHub."""
    if markdown:
        rule = "|---" + "|---:" * (len(header) - 1) + "|"
        lines = ["| " + " | ".join(row) + " |" for row in (header, *rows)]
        return [lines[0], rule, *lines[1:]]
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    return [
        "  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])])
        for row in (header, *rows)
    ]


def about(run: Run, markdown: bool) -> list[str]:
    """The command and the environment of the numbers."""
    if not markdown:
        return [f"{key}: {value}" for key, value in run.environment.items()]
    facts = dict(run.environment)
    command = facts.pop("command")
    return [f"`{command}`: " + ", ".join(f"{key} {value}" for key, value in facts.items()) + "."]


def titled(
    title: str, header: Sequence[str], rows: Sequence[Sequence[str]], markdown: bool
) -> list[str]:
    """A table under its title."""
    return ["", *([f"**{title}**", ""] if markdown else [title]), *table(header, rows, markdown)]


def with_reasons(lines: list[str], run: Run) -> str:
    """The lines, followed by the reasons why contenders were not timed."""
    places: dict[str, list[str]] = {}
    for result in run.results:
        for reason in problems([result]):
            places.setdefault(reason, []).append(result.workload)
    reasons = [f"{_few(names)} {reason}" for reason, names in places.items()]
    return "\n".join([*lines, "", *reasons] if reasons else lines)


def _few(names: Sequence[str]) -> str:
    """The names, or the first ones of many."""
    return ", ".join(names) if len(names) < 4 else f"{names[0]} and {len(names) - 1} others,"


def compare(before: Run, after: Run) -> str:
    """Changes beyond the noise: beyond the spread of both runs, and beyond 2%."""
    lines = [
        f"{key}: {before.environment.get(key)} -> {value}"
        for key, value in after.environment.items()
        if key not in ("date", "command", "load before") and before.environment.get(key) != value
    ]
    old = {(r.workload, r.contender): r for r in before.results if r.rounds}
    new = {(r.workload, r.contender): r for r in after.results if r.rounds}
    changed = 0
    for key in (key for key in old if key in new):
        ratio = new[key].best / old[key].best
        noise = max(LEAST_NOISE, old[key].spread - 1, new[key].spread - 1)
        if not 1 / (1 + noise) <= ratio <= 1 + noise:
            changed += 1
            times = f"{duration(old[key].best)} -> {duration(new[key].best)}"
            lines.append(f"{key[0]} {key[1]}: {times}, x {ratio:.2f} (noise {noise:.0%})")
    common = old.keys() & new.keys()
    lines.append(f"{changed} of {len(common)} results changed beyond the noise")
    for side, only in (("first", old.keys() - new.keys()), ("second", new.keys() - old.keys())):
        lines += [f"only in the {side}: {' '.join(key)}" for key in sorted(only)]
    return "\n".join(lines)
