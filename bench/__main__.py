"""The command line: ``python -m bench``, and its commands ``compare`` and ``memory``."""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from bench import report
from bench.contenders import CONTENDERS
from bench.runner import ROOT, Result, measure
from bench.workloads import WORKLOADS


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(prog="python -m bench", description="Time an optimizer step.")
    add = top.add_argument
    add("--threads", type=int, default=2, help="threads of every contender (2)")
    add("--quick", action="store_true", help="3 rounds of 0.05 s in place of 10 of 0.2 s")
    add("--rounds", type=int, help="rounds per contender")
    add("--only", action="append", choices=CONTENDERS, help="time this contender; repeatable")
    add("--workload", action="append", choices=WORKLOADS, help="time this workload; repeatable")
    add("--json", type=Path, metavar="PATH", help="write the results")
    add("--markdown", action="store_true", help="print tables for GitHub")
    add("--plot", type=Path, metavar="PATH", help="draw the results as PNG")
    commands = top.add_subparsers(dest="command", title="other measurements")
    compare = commands.add_parser("compare", help="what changed between two JSON files")
    compare.add_argument("before", type=Path)
    compare.add_argument("after", type=Path)
    commands.add_parser("memory", help="what Adam adds to the memory of a program")
    return top


def progress(message: str) -> None:
    print(message, file=sys.stderr, flush=True)


def command(options: argparse.Namespace) -> str:
    """What would measure this again; where it is written does not matter."""
    words = ["python -m bench", f"--threads {options.threads}"]
    words += ["--quick"] if options.quick else []
    words += [f"--rounds {options.rounds}"] if options.rounds else []
    words += [f"--only {name}" for name in options.only or ()]
    words += [f"--workload {name}" for name in options.workload or ()]
    return " ".join(words)


def run(options: argparse.Namespace) -> report.Run:
    """Measure what the options ask for, in the order of the tables."""
    facts = report.environment(options.threads, command(options))
    results: list[Result] = []
    for name in [n for n in WORKLOADS if n in (options.workload or WORKLOADS)]:
        results += measure(
            WORKLOADS[name],
            [n for n in CONTENDERS if n in (options.only or CONTENDERS)],
            threads=options.threads,
            rounds=options.rounds or (3 if options.quick else 10),
            seconds=0.05 if options.quick else 0.2,
            progress=progress,
        )
    return report.Run(facts, results)


def publish(done: report.Run, options: argparse.Namespace) -> None:
    """Write the JSON file first: drawing may fail, and measuring takes minutes."""
    if options.json:
        done.save(options.json)
    print(report.markdown(done) if options.markdown else report.text(done))
    if options.plot:
        try:
            from bench.plot import draw
        except ImportError as error:
            sys.exit(f"no plot: {error} (pip install matplotlib)")
        draw(done, options.plot)


def main(arguments: Sequence[str]) -> int:
    options = parser().parse_args(arguments)
    if options.command == "compare":
        before, after = report.Run.load(options.before), report.Run.load(options.after)
        print(report.compare(before, after))
        return 0
    if options.command == "memory":
        return subprocess.run([sys.executable, "-m", "bench.memory"], cwd=ROOT).returncode
    done = run(options)
    publish(done, options)
    return int(any(r.status in ("invalid", "failed") for r in done.results))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
