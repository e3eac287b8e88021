"""The command line: ``python -m bench``, and its commands."""

from __future__ import annotations

import argparse
import importlib
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from bench import accuracy, epochs, readme, report
from bench.contenders import CONTENDERS, SLOW
from bench.contexts import CONTEXTS
from bench.ranks import command as ranks
from bench.ranks.study import Study
from bench.runner import ROOT, Effort, measure
from bench.tables import COMMANDS
from bench.tables.command import QUICK, Command
from bench.workloads import DTYPES, MOST_JOINED, Workload, shapes_named

DEFAULT = "adam"
ALONE = {"memory": "bench.memory", "sklearn": "bench.sklearn_mlp"}
"""Commands that are programs of their own."""


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(prog="python -m bench", description="Time a step.")
    measuring(top, COMMANDS[DEFAULT])
    commands = top.add_subparsers(dest="command", title="commands")
    for name, command in COMMANDS.items():
        # Without its own default, an option that is not given keeps its value.
        each = commands.add_parser(name, help=command.about, argument_default=argparse.SUPPRESS)
        measuring(each, command)
    show = commands.add_parser("show", help="the tables and plots of JSON files, as of one run")
    show.add_argument("run", type=Path, nargs="+")
    show.add_argument("--json", type=Path, metavar="PATH", help="write them as one file")
    output(show)
    compare = commands.add_parser("compare", help="what changed between two JSON files")
    compare.add_argument("before", type=Path)
    compare.add_argument("after", type=Path)
    commands.add_parser("readme", help="write the stored results into README.md and other pages")
    commands.add_parser("memory", help="what Adam adds to the memory of a program")
    epochs.add_options(
        commands.add_parser("epochs", help="whole epochs of training torch's models")
    )
    accuracy.add_options(
        commands.add_parser("accuracy", help="how well a model trains, format by format")
    )
    ranks.add_options(commands.add_parser("distributed", help="one optimizer over many processes"))
    commands.add_parser("sklearn", help="how soon perceptrons read digits, with which solver")
    top.set_defaults(command=DEFAULT)
    return top


def measuring(to: argparse.ArgumentParser, command: Command) -> None:
    """The options of a command that measures."""
    add = to.add_argument
    add("--threads", type=int, help="threads of every contender (2; scaling: as many as there are)")
    add("--quick", action="store_true", help="3 rounds of 0.05 s")
    add("--rounds", type=int, help=f"rounds per contender ({command.effort.rounds})")
    add("--only", action="append", choices=CONTENDERS, help="time this contender; repeatable")
    add(
        "--workload",
        action="append",
        type=tensors,
        metavar="COUNTxSIZE",
        help=f"time these tensors, like 1x16M or 1000x100; repeatable "
        f"({', '.join(command.workloads)})",
    )
    if command.any_optimizer:
        about = f"this one; repeatable ({', '.join(command.optimizers)})"
        add("--optimizer", action="append", choices=command.operations, help=about)
    if command.any_dtype:
        add("--dtype", choices=DTYPES, help=f"of all arrays ({', '.join(command.dtypes)})")
    if command.any_context:
        about = f"what comes before each step; repeatable ({', '.join(command.contexts)})"
        add("--context", action="append", choices=CONTEXTS, help=about)
    add("--json", type=Path, metavar="PATH", help="write the results")
    output(to)


def output(to: argparse.ArgumentParser) -> None:
    """The options of how results are shown."""
    to.add_argument("--markdown", action="store_true", help="print tables for GitHub")
    to.add_argument("--plot", type=Path, metavar="PATH", help="draw the results as PNG")


def tensors(text: str) -> str:
    """Check the name of tensors."""
    try:
        shapes_named(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    return text


def progress(message: str) -> None:
    print(message, file=sys.stderr, flush=True)


def threads(options: argparse.Namespace) -> Sequence[int]:
    """The numbers of threads to time."""
    return COMMANDS[options.command].threads(options.threads)


def words(options: argparse.Namespace) -> str:
    """The command that repeats this measurement, without options of output."""
    found = ["python -m bench"]
    found += [options.command] if options.command != DEFAULT else []
    found += [f"--threads {max(threads(options))}"]
    found += ["--quick"] if options.quick else []
    found += [f"--rounds {options.rounds}"] if options.rounds else []
    for option in ("only", "workload", "optimizer", "context"):
        found += [f"--{option} {name}" for name in getattr(options, option, None) or ()]
    found += [f"--dtype {options.dtype}"] if options.dtype else []
    return " ".join(found)


def contenders(options: argparse.Namespace) -> list[str]:
    """The selected contenders, in the order of the tables."""
    command = COMMANDS[options.command]
    names = options.only or command.names(options.optimizer or command.optimizers)
    if options.quick and not options.only and (slow := [n for n in SLOW if n in names]):
        progress(f"--quick leaves out {', '.join(slow)}, which compiles for long; --only times it")
        names = [name for name in names if name not in slow]
    return [name for name in CONTENDERS if name in names]


def workloads(options: argparse.Namespace, count: int) -> list[Workload]:
    """The workloads for this number of contenders, in the order of the tables."""
    command = COMMANDS[options.command]
    found = command.all_of(
        options.workload or command.workloads,
        options.optimizer or command.optimizers,
        (options.dtype,) if options.dtype else command.dtypes,
        getattr(options, "context", None) or command.contexts,
    )
    if options.workload:
        return found
    large = [w for w in found if w.memory * count > command.most_memory]
    long = [w for w in found if w.joins and w.elements > MOST_JOINED]
    for reason, out in (
        (f"{count} contenders need much memory", large),
        ("their reference takes minutes", long),
    ):
        if names := ", ".join(w.name for w in out):
            progress(f"left out, as {reason}: {names}; --workload times it")
    return [w for w in found if w not in [*large, *long]]


def effort(options: argparse.Namespace) -> Effort:
    usual = QUICK if options.quick else COMMANDS[options.command].effort
    return replace(usual, rounds=options.rounds or usual.rounds)


def run(options: argparse.Namespace) -> report.Run:
    """Measure as the options say."""
    facts = report.environment(max(threads(options)), words(options))
    names = contenders(options)
    chosen = workloads(options, len(names))
    return report.Run(facts, measure(chosen, names, threads(options), effort(options), progress))


def publish(done: report.Run, command: Command, options: argparse.Namespace) -> None:
    """Print the tables, and draw the plots."""
    print(command.text(done, options.markdown))
    if options.plot and command.drawn_by:
        module_name, function = command.drawn_by
        try:
            module = importlib.import_module(f"bench.{module_name}")
        except ImportError as error:
            sys.exit(f"no plot: {error} (pip install matplotlib)")
        getattr(module, function)(done, options.plot)


def show(options: argparse.Namespace) -> None:
    """Print and draw stored results."""
    if report.command_in(options.run[0]) == "accuracy":
        for path in options.run:
            print(accuracy.Study.load(path).text(options.markdown))
        return
    if report.command_in(options.run[0]) == "distributed":
        for path in options.run:
            ranks.publish(Study.load(path), options.markdown, options.plot)
        return
    done = report.Run.joined([*map(report.Run.load, options.run)])
    if options.json:
        done.save(options.json)
    publish(done, COMMANDS[done.command or DEFAULT], options)


def main(arguments: Sequence[str]) -> int:
    options = parser().parse_args(arguments)
    if options.command == "compare":
        before, after = report.Run.load(options.before), report.Run.load(options.after)
        print(report.compare(before, after))
        return 0
    if options.command == "show":
        show(options)
        return 0
    if options.command == "readme":
        readme.write()
        return 0
    if options.command == "epochs":
        models, optimizers = options.model or epochs.MODELS, options.optimizer or epochs.OPTIMIZERS
        return epochs.run(
            list(models), list(optimizers), options.threads, options.runs, options.rounds
        )
    if options.command == "accuracy":
        return accuracy.run(options, progress)
    if options.command == "distributed":
        return ranks.run(options, progress)
    if module := ALONE.get(options.command):
        return subprocess.run([sys.executable, "-m", module], cwd=ROOT).returncode
    if options.plot and not COMMANDS[options.command].drawn_by:
        sys.exit(f"no plot of {options.command}: it has a table only")
    done = run(options)
    if options.json:  # first: drawing may fail, and measuring takes minutes
        done.save(options.json)
    publish(done, COMMANDS[options.command], options)
    return int(any(r.status in ("invalid", "failed") for r in done.results))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
