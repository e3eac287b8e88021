"""Runs the cases of fuzzers in processes of their own, so that a crash or a deadlock is a failure
like any other, with the number of its case."""

from __future__ import annotations

import argparse
import faulthandler
import importlib
import json
import os
import pkgutil
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from types import ModuleType
from typing import IO, Any

from tests.support.paths import ROOT

from . import __path__ as FOLDER

LIMIT = 60.0  # seconds for a case, unless the fuzzer says otherwise
# The sanitizer under which this runs, which is slow and does not survive forks; empty if none.
SANITIZER = next(
    (name for name in ("libasan", "libtsan") if name in os.environ.get("LD_PRELOAD", "")), ""
)
SLOWER = 10 if SANITIZER else 1
SLICE = 200  # cases of the slice, unless the fuzzer says otherwise
SHOWN = 3  # failures that are shown in full
DIGITS = "0123456789"
# Arguments of Python, before the fuzzer's name. By its folder: another package may be called tests.
WORKER = (
    "-c",
    f"import sys; sys.path.insert(0, {str(ROOT)!r}); "
    "from tests.fuzz.runner import worker_main; worker_main(sys.argv[1])",
)


@dataclass(frozen=True)
class Failure:
    """A case that broke a promise, or its process."""

    fuzzer: str
    case: int
    text: str
    crash: bool = False

    @property
    def kind(self) -> str:
        """The last line of the text without its numbers, under which failures are counted."""
        line = self.text.strip().splitlines()[-1] if self.text.strip() else "nothing said"
        return line.translate(str.maketrans("", "", DIGITS))[:150]

    def __str__(self) -> str:
        repeat = f"python -m tests.fuzz {self.fuzzer} --start {self.case} --count 1"
        return f"{self.text.rstrip()}\n\n{self.fuzzer} case {self.case}; to repeat it: {repeat}"


@dataclass
class Report:
    """What a run of one fuzzer has found."""

    fuzzer: str
    tally: Counter[str] = field(default_factory=Counter)
    failures: list[Failure] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def count(self) -> int:
        """How many cases have been run."""
        return self.tally.total() + len(self.failures)

    def __str__(self) -> str:
        rate = self.count / max(self.seconds, 1e-9)
        lines = [
            f"{self.fuzzer}: {self.count} cases in {self.seconds:.1f} s ({rate:.0f} a second), "
            f"{len(self.failures)} failed"
        ]
        lines += [f"  {number:>8}  {outcome}" for outcome, number in self.tally.most_common()]
        kinds = Counter(failure.kind for failure in self.failures)
        for kind, number in kinds.most_common():
            some = [str(f.case) for f in self.failures if f.kind == kind][:5]
            lines.append(f"  {number:>8}  FAILED: {kind} (case {', '.join(some)})")
        shown = {failure.kind: failure for failure in reversed(self.failures)}
        # Crashes first: nothing else tells where they are.
        order = sorted(shown.values(), key=lambda failure: (not failure.crash, failure.case))
        lines += [f"\n{failure}" for failure in order[:SHOWN]]
        return "\n".join(lines)


# --- fuzzers and their cases ----------------------------------------------------------------------


def discover() -> dict[str, ModuleType]:
    """The fuzzers of this package, by name."""
    found = {}
    for info in pkgutil.iter_modules(FOLDER):
        if info.name.startswith("__") or info.name == "runner":
            continue
        module = importlib.import_module(f"{__package__}.{info.name}")
        if hasattr(module, "NAME") and hasattr(module, "check"):
            found[module.NAME] = module
    return dict(sorted(found.items()))


def long_run(fuzzer: ModuleType, start: int = 0, count: int | None = None) -> list[int]:
    """The cases of the long run, or `count` of them: from `start` on, or, where they are
    numbered, spread over all."""
    if not hasattr(fuzzer, "cases"):
        return list(range(start, start + (fuzzer.LONG if count is None else count)))
    numbers = [case for case in fuzzer.cases() if case >= start]
    if count is None:
        return numbers
    return numbers[:count] if start else _spread(numbers, count)


def short_slice(fuzzer: ModuleType) -> list[int]:
    """The cases that every run of the tests goes through."""
    seeds = fuzzer.SEEDS
    chosen = long_run(fuzzer, count=getattr(fuzzer, "SLICE", SLICE))
    return [*seeds, *(case for case in chosen if case not in seeds)]


def _spread(numbers: list[int], count: int) -> list[int]:
    return numbers[:: max(1, -(-len(numbers) // count))]


# --- in the process that runs cases ---------------------------------------------------------------


class Watchdog:
    """Ends the process, with every thread's traceback, if a case does not end."""

    def __init__(self, limit: float) -> None:
        self._limit, self._armed = limit, 0.0

    def rearm(self) -> None:
        """A case begins. Not each time, as that starts a thread."""
        now = time.monotonic()
        if now - self._armed > min(1.0, self._limit / 4):
            faulthandler.dump_traceback_later(self._limit, exit=True)
            self._armed = now


def run_case(fuzzer: ModuleType, case: int) -> tuple[str | None, str]:
    """The outcome of a case, or None and what was wrong."""
    try:
        return str(fuzzer.check(case)), ""
    except BaseException:  # an interrupt that a fuzzer has let out is a failure, too
        sys.settrace(None)
        return None, traceback.format_exc()


def work(fuzzer: ModuleType, cases: Iterable[int], channel: IO[str]) -> None:
    """Run cases; write the number of each before it begins, and its outcome afterwards."""
    faulthandler.enable()
    watchdog = Watchdog(getattr(fuzzer, "LIMIT", LIMIT) * SLOWER)
    for case in cases:
        watchdog.rearm()
        channel.write(f"[{case}]\n")
        channel.flush()
        outcome, text = run_case(fuzzer, case)
        channel.write(json.dumps([case, outcome, text]) + "\n")
        channel.flush()
    faulthandler.cancel_dump_traceback_later()


def worker_main(name: str) -> None:
    """What a worker does: cases come on its standard input, results go to its standard output."""
    channel = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what the library or a fuzzer may print
    work(discover()[name], map(int, sys.stdin), channel)


# --- in the process that a user starts ------------------------------------------------------------


def _start(name: str, cases: Iterable[int], errors: IO[bytes]) -> subprocess.Popen[str]:
    with tempfile.TemporaryFile("w+") as numbers:
        numbers.write("\n".join(map(str, cases)))
        numbers.flush()
        numbers.seek(0)
        return subprocess.Popen(
            [sys.executable, *WORKER, name],
            stdin=numbers,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            cwd=ROOT,
            start_new_session=True,  # an interrupt is this process's to deal with
        )


def _crash(name: str, case: int, code: int, errors: IO[bytes]) -> Failure:
    errors.seek(0)
    said = errors.read().decode(errors="replace")[-20_000:]
    what = f"the process ended with status {code}"
    if "Timeout (" in said:
        what = "the case did not end"
    for line in said.splitlines():
        if line.startswith("SUMMARY: ") or ": runtime error: " in line:  # a sanitizer's
            what = line
    return Failure(name, case, f"{said}\n{what}", crash=True)


def _results(name: str, cases: Sequence[int]) -> Iterator[tuple[str | None, Failure | None]]:
    """Outcomes and failures of these cases, from as many processes as it takes."""
    left = deque(cases)
    while left:
        with tempfile.TemporaryFile() as errors:
            begun = None
            with _start(name, left, errors) as process:
                try:
                    for line in process.stdout or ():
                        begun, *result = json.loads(line)
                        if result:
                            outcome, text = result
                            yield outcome, Failure(name, begun, text) if outcome is None else None
                            left.popleft()
                            begun = None
                except GeneratorExit:
                    process.kill()
                    raise
            if begun is not None:
                yield None, _crash(name, begun, process.returncode, errors)
                left.popleft()
            elif left:
                raise RuntimeError(str(_crash(name, left[0], process.returncode, errors)))


class Progress:
    """How far a run is: tqdm's bar where there is one, otherwise a line now and then."""

    def __init__(self, name: str, total: int, quiet: bool) -> None:
        self._name, self._total, self._done, self._shown = name, total, 0, time.monotonic()
        self._bar: Any = None
        self._quiet = quiet
        if not quiet and sys.stderr.isatty():
            try:
                from tqdm import tqdm
            except ImportError:
                return
            self._bar = tqdm(total=total, desc=name)

    def advance(self) -> None:
        self._done += 1
        if self._bar is not None:
            self._bar.update()
        elif not self._quiet and time.monotonic() - self._shown > 10:
            self._shown = time.monotonic()
            print(f"{self._name}: {self._done} of {self._total}", file=sys.stderr, flush=True)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()


def run(
    name: str, cases: Sequence[int], jobs: int = 1, *, first: bool = False, quiet: bool = True
) -> Report:
    """Run these cases of a fuzzer in `jobs` processes; with `first` up to the first failure."""
    report, lock, begin = Report(name), threading.Lock(), time.monotonic()
    progress, stop, errors = Progress(name, len(cases), quiet), threading.Event(), []

    def follow(part: Sequence[int]) -> None:
        try:
            for outcome, failure in _results(name, part):
                with lock:
                    if failure is None:
                        report.tally[str(outcome)] += 1
                    else:
                        report.failures.append(failure)
                    progress.advance()
                if stop.is_set() or (first and failure is not None):
                    stop.set()
                    return
        except BaseException as error:
            errors.append(error)
            stop.set()

    parts = [cases[k::jobs] for k in range(jobs) if cases[k::jobs]]
    threads = [threading.Thread(target=follow, args=(part,), daemon=True) for part in parts]
    for thread in threads:
        thread.start()
    try:
        for thread in threads:
            thread.join()
    finally:
        stop.set()
        progress.close()
    if errors:
        raise errors[0]
    report.seconds = time.monotonic() - begin
    return report


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help="fuzzers to run; all by default")
    parser.add_argument("--count", type=int, help="how many cases, not all of the long run")
    parser.add_argument("--start", type=int, default=0, help="the first case")
    parser.add_argument("--slice", action="store_true", help="the cases that the tests run")
    parser.add_argument("-j", "--jobs", type=int, default=1, help="processes at a time")
    parser.add_argument("-x", "--first", action="store_true", help="stop at the first failure")
    parser.add_argument("--here", action="store_true", help="in this process, for a debugger")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; the exit status is 1 if a case has failed."""
    arguments = _arguments(argv)
    fuzzers = discover()
    unknown = set(arguments.names) - fuzzers.keys()
    if unknown:
        print(f"no fuzzer is called {', '.join(unknown)}; there are {', '.join(fuzzers)}")
        return 2
    failed = False
    for name in arguments.names or fuzzers:
        fuzzer = fuzzers[name]
        cases = (
            short_slice(fuzzer)
            if arguments.slice
            else long_run(fuzzer, arguments.start, arguments.count)
        )
        if arguments.here:
            for case in cases:
                print(f"{name} case {case}: {fuzzer.check(case)}", flush=True)
            continue
        report = run(name, cases, arguments.jobs, first=arguments.first, quiet=False)
        print(report, flush=True)
        failed = failed or bool(report.failures)
    return int(failed)
