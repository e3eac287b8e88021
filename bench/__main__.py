"""The command line: ``python -m bench``, and its commands."""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from bench import more_tables, overview, report
from bench.contenders import CONTENDERS, FUSED, PEERS
from bench.optimizers import OPTIMIZERS
from bench.runner import ROOT, measure
from bench.workloads import ADAM, OVERVIEW, WORKLOADS, Workload, overview_name, zeroed_name


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(prog="python -m bench", description="Time a step of Adam.")
    top.set_defaults(
        **dict.fromkeys(("threads", "rounds", "only", "workload", "optimizer", "json", "plot")),
        quick=False,
        markdown=False,
    )
    measuring(top, ADAM)
    commands = top.add_subparsers(dest="command", title="other measurements")
    # Without a default of its own, an option that is not given stays what it was.
    every = commands.add_parser(
        "optimizers", help="all optimizers in one table", argument_default=argparse.SUPPRESS
    )
    measuring(every, OVERVIEW)
    every.add_argument(
        "--optimizer", action="append", choices=OPTIMIZERS, help="time this optimizer; repeatable"
    )
    for name, about in (
        ("denormals", "Adam once gradients have been zero for long"),
        ("scaling", "Adam on 1, 2, ... threads"),
        ("fused", "clipping, stepping and zeroing, in one call and in several"),
    ):
        measuring(commands.add_parser(name, help=about, argument_default=argparse.SUPPRESS), ADAM)
    compare = commands.add_parser("compare", help="what changed between two JSON files")
    compare.add_argument("before", type=Path)
    compare.add_argument("after", type=Path)
    commands.add_parser("memory", help="what Adam adds to the memory of a program")
    return top


def measuring(to: argparse.ArgumentParser, workloads: Iterable[str]) -> None:
    """The options of the commands that measure."""
    add = to.add_argument
    add("--threads", type=int, help="threads of every contender (2; scaling: as many as there are)")
    add("--quick", action="store_true", help="3 rounds of 0.05 s in place of 10 of 0.2 s")
    add("--rounds", type=int, help="rounds per contender")
    add("--only", action="append", choices=CONTENDERS, help="time this contender; repeatable")
    add("--workload", action="append", choices=workloads, help="time this workload; repeatable")
    add("--json", type=Path, metavar="PATH", help="write the results")
    add("--markdown", action="store_true", help="print tables for GitHub")
    add("--plot", type=Path, metavar="PATH", help="draw the results as PNG")


def progress(message: str) -> None:
    print(message, file=sys.stderr, flush=True)


DEFAULTS = {
    "denormals": (more_tables.DENORMALS, ("1x1M",)),
    "scaling": (more_tables.SCALING, ("1x16M",)),
    "fused": (FUSED, OVERVIEW),
    "optimizers": (overview.CONTENDERS, OVERVIEW),
    None: (PEERS, tuple(ADAM)),
}
"""The contenders and the workloads of a command, where no option names others."""

TEXTS = {
    "denormals": more_tables.denormals,
    "scaling": more_tables.scaling,
    "fused": more_tables.fused,
    "optimizers": overview.text,
    None: report.text,
}
PLOTS = {"optimizers": "draw_overview", None: "draw"}


def threads(options: argparse.Namespace) -> int:
    """The threads of every contender; of ``scaling``, the most."""
    if options.threads or options.command != "scaling":
        return options.threads or 2
    import cyoptim

    return cyoptim.get_num_threads()  # affinity and quotas are known to it


def command(options: argparse.Namespace) -> str:
    """What would measure this again; where it is written does not matter."""
    words = ["python -m bench"]
    words += [options.command] if options.command else []
    words += [f"--threads {threads(options)}"]
    words += ["--quick"] if options.quick else []
    words += [f"--rounds {options.rounds}"] if options.rounds else []
    for option in ("only", "workload", "optimizer"):
        words += [f"--{option} {name}" for name in getattr(options, option) or ()]
    return " ".join(words)


def workloads(options: argparse.Namespace) -> list[Workload]:
    """What the options ask for, in the order of the tables."""
    chosen = options.workload or DEFAULTS[options.command][1]
    if options.command == "optimizers":
        return [
            WORKLOADS[overview_name(optimizer, shapes)]
            for optimizer in OPTIMIZERS
            for shapes in OVERVIEW
            if optimizer in (options.optimizer or OPTIMIZERS) and shapes in chosen
        ]
    names = [name for name in ADAM if name in chosen]
    if options.command == "denormals":
        names += [zeroed_name(name) for name in names]
    return [WORKLOADS[name] for name in names]


def run(options: argparse.Namespace) -> report.Run:
    """Measure what the options ask for."""
    contenders = options.only or DEFAULTS[options.command][0]
    timed = more_tables.measure_scaling if options.command == "scaling" else measure
    return report.Run(
        report.environment(threads(options), command(options)),
        timed(
            workloads(options),
            [name for name in CONTENDERS if name in contenders],
            threads=threads(options),
            rounds=options.rounds or (3 if options.quick else 10),
            seconds=0.05 if options.quick else 0.2,
            progress=progress,
        ),
    )


def publish(done: report.Run, options: argparse.Namespace) -> None:
    """Write the JSON file first: drawing may fail, and measuring takes minutes."""
    if options.json:
        done.save(options.json)
    print(TEXTS[options.command](done, options.markdown))
    if options.plot:
        try:
            from bench import plot
        except ImportError as error:
            sys.exit(f"no plot: {error} (pip install matplotlib)")
        getattr(plot, PLOTS[options.command])(done, options.plot)


def main(arguments: Sequence[str]) -> int:
    options = parser().parse_args(arguments)
    if options.command == "compare":
        before, after = report.Run.load(options.before), report.Run.load(options.after)
        print(report.compare(before, after))
        return 0
    if options.command == "memory":
        return subprocess.run([sys.executable, "-m", "bench.memory"], cwd=ROOT).returncode
    if options.plot and options.command not in PLOTS:
        sys.exit(f"no plot of {options.command}: it has a table only")
    done = run(options)
    publish(done, options)
    return int(any(r.status in ("invalid", "failed") for r in done.results))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
