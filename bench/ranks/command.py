"""``python -m bench distributed``: launches the processes, and shows what they have measured."""

from __future__ import annotations

import argparse
import importlib
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from bench.ranks import tables
from bench.ranks.contenders import REPLICATED, SHARDED, STEPS, ZERO
from bench.ranks.parts import PARTS, ROOF, STEP_PART
from bench.ranks.study import Held, Study, Timed
from bench.ranks.workloads import TRANSFORMER, workload_of
from bench.report import environment
from bench.runner import Progress
from tests.support.mpi import Library, library_of, run_ranks
from tests.support.mpi import libraries as libraries_found

WORKLOADS = ("1x16M", TRANSFORMER)
RANKS = (1, 2, 4)
MANY = 2
"""The number of processes in which all contenders are timed."""

HOLDING = (REPLICATED, SHARDED, ZERO)
"""Those whose memory is measured."""

ALONE = (STEP_PART, ROOF)
"""The parts of a step of one process."""

ROUNDS, STEPS_OF_A_ROUND = 6, 3
TIMEOUT = 300  # seconds of one launch
YIELDING = ("MPIR_CVAR_ENABLE_HEAVY_YIELD", "OMPI_MCA_mpi_yield_when_idle")
"""Variables that let waiting processes leave the processor, which costs time where each has one."""


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    add = parser.add_argument
    add("--quick", action="store_true", help="2 rounds of each contender")
    add("--rounds", type=int, help=f"rounds of each contender ({ROUNDS})")
    add("--ranks", type=int, action="append", help=f"so many processes; repeatable {RANKS}")
    add(
        "--workload",
        action="append",
        metavar="COUNTxSIZE",
        type=checked_workload,
        help=f"these arrays; repeatable ({', '.join(WORKLOADS)})",
    )
    add("--only", action="append", choices=[*STEPS, *PARTS], help="this contender; repeatable")
    add("--mpiexec", action="append", metavar="PATH", help="a launcher of MPI; repeatable")
    add("--json", type=Path, metavar="PATH", help="write the results")
    add("--markdown", action="store_true", help="print tables for GitHub")
    add("--plot", type=Path, metavar="PATH", help="draw the results, and the model, as PNG")


def checked_workload(text: str) -> str:
    try:
        workload_of(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{error}, or {TRANSFORMER}") from error
    return text


# --- launching ------------------------------------------------------------------------------------


def libraries(named: Sequence[str] | None) -> list[Library]:
    """The MPI libraries of these launchers, or those that are found."""
    if not named:
        return libraries_found()
    found = [(launcher, library_of(launcher)) for launcher in named]
    if broken := [launcher for launcher, library in found if library is None]:
        sys.exit(f"mpi4py has another MPI library than {', '.join(broken)}")
    return [library for _, library in found if library is not None]


def processors() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def ready(library: Library, ranks: int) -> Library:
    """The library with variables for as many processes; each has a processor, or waits politely."""
    if ranks > processors():
        return library
    kept = tuple((name, value) for name, value in library.variables if name not in YIELDING)
    return replace(library, variables=kept)


def launched(
    library: Library, ranks: int, module: str, request: dict[str, Any]
) -> tuple[list[dict[str, Any]], str]:
    """What the first process has written, and what went wrong."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "found.json")
        words = json.dumps(request | {"library": library.name, "path": str(path)})
        message = ""
        try:
            done = run_ranks(
                ready(library, ranks), ranks, "-m", "mpi4py", "-m", module, words, timeout=TIMEOUT
            )
            if done.returncode:
                message = error_in(done.stderr) or f"exit status {done.returncode}"
        except (OSError, subprocess.SubprocessError) as error:
            message = str(error).partition("\n")[0]
        return (json.loads(path.read_text()) if path.exists() else []), message


def error_in(text: str) -> str:
    """The last line that is an error of Python's, or else the last one."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    errors = [line for line in lines if re.match(r"[\w.]+(Error|Exception|Interrupt)\b", line)]
    return (errors or lines or [""])[-1][:200]


def timed(
    library: Library, ranks: int, workloads: dict[str, list[str]], rounds: int, count: int
) -> list[Timed]:
    """Time contenders in so many processes."""
    request = {"workloads": workloads, "rounds": rounds, "count": count}
    found, message = launched(library, ranks, "bench.ranks.program", request)
    results = [Timed(**entry) for entry in found]
    known = {(each.workload, each.contender) for each in results}
    return results + [
        Timed(library.name, ranks, workload, contender, "failed", message)
        for workload, contenders in workloads.items()
        for contender in contenders
        if (workload, contender) not in known
    ]


def held(library: Library, ranks: int, workload: str, contender: str) -> Held:
    """Measure the memory of a contender in so many processes."""
    request = {"workload": workload, "contender": contender}
    found, message = launched(library, ranks, "bench.ranks.memory", request)
    if found:
        return Held(**found[0])
    return Held(library.name, ranks, workload, contender, "failed", message)


# --- what is measured -----------------------------------------------------------------------------


def chosen(options: argparse.Namespace, ranks: int, first: bool) -> dict[str, list[str]]:
    """The contenders of each workload: all in some processes, in others those of the model. torch
    has its own exchange, which is timed under the first library only."""
    found = {}
    for workload in options.workload or WORKLOADS:
        names = [
            name
            for name, row in STEPS.items()
            if (row.everywhere or ranks == MANY) and (first or not row.packages)
        ]
        if workload_of(workload).tensors == 1:
            names += PARTS if ranks > 1 else ALONE
        found[workload] = [name for name in names if name in (options.only or names)]
    return {workload: names for workload, names in found.items() if names}


def measured_times(
    options: argparse.Namespace, found: Sequence[Library], progress: Progress
) -> Iterator[Timed]:
    rounds = options.rounds or (2 if options.quick else ROUNDS)
    for library in found:
        for ranks in options.ranks or RANKS:
            progress(f"{library}, {ranks} processes")
            contenders = chosen(options, ranks, library is found[0])
            yield from timed(library, ranks, contenders, rounds, STEPS_OF_A_ROUND)


def measured_memory(
    options: argparse.Namespace, library: Library, progress: Progress
) -> Iterator[Held]:
    """Under one library, as arrays are as large under any."""
    workload = (options.workload or WORKLOADS)[-1]
    names = [name for name in HOLDING if name in (options.only or HOLDING)]
    for ranks in options.ranks or RANKS:
        for name in names:
            progress(f"memory, {ranks} processes: {name}")
            yield held(library, ranks, workload, name)


def words(options: argparse.Namespace) -> str:
    """The command that repeats this measurement, without options of output and of places."""
    found = ["python -m bench distributed"]
    found += ["--quick"] if options.quick else []
    found += [f"--rounds {options.rounds}"] if options.rounds else []
    for option in ("ranks", "workload", "only"):
        found += [f"--{option} {_quoted(value)}" for value in getattr(options, option) or ()]
    return " ".join(found)


def _quoted(value: object) -> str:
    return f'"{value}"' if " " in str(value) else str(value)


def facts(options: argparse.Namespace, found: Sequence[Library]) -> dict[str, Any]:
    """The environment, with the versions of MPI."""
    known = environment(1, words(options))
    known["processors"] = processors()
    for library in found:
        known[library.name] = version_of(library)
    return known


VERSION = "import mpi4py; from mpi4py import MPI; print(MPI.Get_library_version().split(',')[0])"


def version_of(library: Library) -> str:
    """The version of a library, without its name."""
    text = run_ranks(library, 1, "-c", VERSION).stdout.split("\n")[0]
    return text.replace("Version:", "").replace(library.name, "").strip(" \tv\0")


def run(options: argparse.Namespace, progress: Progress) -> int:
    """Measure, and print the tables."""
    found = libraries(options.mpiexec)
    if not found:
        sys.exit("no MPI library: pip install mpi4py mpich, or name launchers by --mpiexec")
    study = Study(facts(options, found), [], [])
    study.times += measured_times(options, found, progress)
    study.memory += measured_memory(options, found[0], progress)
    if options.json:  # first: drawing may fail, and measuring takes minutes
        study.save(options.json)
    publish(study, options.markdown, options.plot)
    return int(any(each.status in ("invalid", "failed") for each in [*study.times, *study.memory]))


def publish(study: Study, markdown: bool, plot: Path | None) -> None:
    """Print the tables, and draw the plots."""
    print(tables.text(study, markdown))
    if plot:
        try:
            charts = importlib.import_module("bench.ranks.charts")
        except ImportError as error:
            sys.exit(f"no plot: {error} (pip install matplotlib)")
        charts.draw(study, plot)
