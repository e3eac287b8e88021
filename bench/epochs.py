"""Whole epochs of training torch models, and the optimizer's share of the time.

Each contender trains the same model on the same batches, in its own process; they take turns,
an epoch each. The worker answers a line of JSON with another: the seconds of the epoch, those of
its steps, and its mean loss. Only the optimizer differs.

Processes keep the memory that a batch frees (`KEEP_MEMORY`). By default glibc may return large
blocks to the system, depending on their addresses; any contender then has up to 79,000 page faults
per epoch, which hide the difference.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

from bench.contexts import SETTLE
from bench.runner import ROOT

MODELS = ("mlp", "residual", "transformer", "recommender")
OPTIMIZERS: dict[str, dict[str, Any]] = {
    "AdamW": {"lr": 1e-3, "weight_decay": 0.01},
    "RMSprop": {"lr": 3e-4},
}
CONTENDERS: dict[str, dict[str, Any]] = {
    "cyoptim": {},
    "torch, fused": {"fused": True},
    "torch, default": {},
}
NOT_FUSED = ("RMSprop",)
"""torch has no fused kernel of these on the CPU."""

KEEP_MEMORY = {"MALLOC_TRIM_THRESHOLD_": str(2**32), "MALLOC_MMAP_THRESHOLD_": str(2**32)}
"""For glibc, in bytes; other C libraries ignore it."""

AGREEMENT = 0.005
"""How far the mean losses of the first epoch may lie apart, as a share: rounding differs. Training
amplifies it, so that those of later epochs tell less."""


@dataclass
class Epochs:
    """The results of a contender: per timed epoch the seconds, and those in steps; and the mean
    loss of every epoch of a run."""

    contender: str
    tensors: int = 0
    elements: int = 0
    seconds: list[float] = field(default_factory=list)
    stepping: list[float] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)

    @property
    def best(self) -> int:
        """The number of the fastest epoch."""
        return min(range(len(self.seconds)), key=self.seconds.__getitem__)


# --- the process of one contender -----------------------------------------------------------------


def work(model: str, optimizer: str, contender: str, threads: int) -> None:
    """Train an epoch for every line that comes in."""
    # Output of libraries must not mix with the replies.
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    import torch

    import cyoptim
    from bench.models import make

    torch.set_num_threads(threads)
    cyoptim.set_num_threads(threads)
    task = make(model)
    library: Any = cyoptim if contender == "cyoptim" else torch.optim
    options = OPTIMIZERS[optimizer] | CONTENDERS[contender]
    chosen = getattr(library, optimizer)(task.model.parameters(), **options)
    sizes = task.sizes
    print(json.dumps({"tensors": len(sizes), "elements": sum(sizes)}), file=replies, flush=True)
    for epoch, _ in enumerate(sys.stdin):
        stepping, total, count = 0.0, 0.0, 0
        begin = time.perf_counter()
        for inputs, targets in task.batches(epoch):
            chosen.zero_grad()
            loss = task.loss(task.model(inputs), targets)
            loss.backward()  # type: ignore[no-untyped-call]
            start = time.perf_counter()
            chosen.step()
            stepping += time.perf_counter() - start
            total, count = total + loss.item(), count + 1
        seconds = time.perf_counter() - begin
        reply = {"seconds": seconds, "stepping": stepping, "loss": total / count}
        print(json.dumps(reply), file=replies, flush=True)


# --- all contenders, in turn ----------------------------------------------------------------------


def start(model: str, optimizer: str, contender: str, threads: int) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "bench.epochs", model, optimizer, contender, str(threads)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env=os.environ | KEEP_MEMORY | {"OMP_NUM_THREADS": str(threads)},
    )


def reply_of(process: subprocess.Popen[str]) -> dict[str, Any]:
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        sys.exit(f"a contender's process ended with exit status {process.wait()}")
    reply: dict[str, Any] = json.loads(line)
    return reply


def measure(model: str, optimizer: str, threads: int, runs: int, rounds: int) -> list[Epochs]:
    """Train this model with every contender, an epoch each in turn; in several runs, as the
    placement of memory differs between processes."""
    names = [n for n in CONTENDERS if n != "torch, fused" or optimizer not in NOT_FUSED]
    found = [Epochs(name) for name in names]
    for _ in range(runs):
        train(found, model, optimizer, threads, rounds)
    return found


def train(found: list[Epochs], model: str, optimizer: str, threads: int, rounds: int) -> None:
    """One run: each contender in its own process. The first epoch warms up."""
    with ExitStack() as stack:
        processes = [
            stack.enter_context(start(model, optimizer, epochs.contender, threads))
            for epochs in found
        ]
        for epochs, process in zip(found, processes, strict=True):
            sizes = reply_of(process)
            epochs.tensors, epochs.elements, epochs.losses = *sizes.values(), []
        for number in range(rounds + 1):
            for epochs, process in zip(found, processes, strict=True):
                time.sleep(SETTLE)
                print(file=process.stdin, flush=True)
                reply = reply_of(process)
                epochs.losses.append(reply["loss"])
                if number > 0:
                    epochs.seconds.append(reply["seconds"])
                    epochs.stepping.append(reply["stepping"])


def milliseconds(seconds: float) -> str:
    return f"{1e3 * seconds:.3g} ms" if seconds < 1 else f"{seconds:.2f} s"


def rows(model: str, optimizer: str, found: list[Epochs]) -> list[list[str]]:
    """One line per contender: time per epoch, share of the steps, and ratio to cyoptim."""
    ours = found[0]
    lines = []
    for epochs in found:
        seconds, stepping = epochs.seconds[epochs.best], epochs.stepping[epochs.best]
        lines.append(
            [
                f"{model}, {epochs.tensors:,} tensors, {epochs.elements:,} elements",
                optimizer,
                epochs.contender,
                milliseconds(seconds),
                f"{seconds / ours.seconds[ours.best]:.2f}",
                milliseconds(stepping),
                f"{stepping / seconds:.0%}",
                f"{epochs.losses[-1]:.4g}",
            ]
        )
    return lines


HEADER = ["model", "optimizer", "library", "epoch", "over ours", "in steps", "share", "last loss"]


def table(lines: list[list[str]]) -> str:
    """The lines as a Markdown table."""
    every = [HEADER, *lines]
    widths = [max(len(line[k]) for line in every) for k in range(len(HEADER))]

    def row(cells: list[str]) -> str:
        padded = [
            c.ljust(w) if k < 3 else c.rjust(w)
            for k, (c, w) in enumerate(zip(cells, widths, strict=True))
        ]
        return "| " + " | ".join(padded) + " |"

    rule = ["-" * w if k < 3 else "-" * (w - 1) + ":" for k, w in enumerate(widths)]
    return "\n".join([row(HEADER), row(rule), *map(row, lines)])


def disagreement(found: list[Epochs]) -> float:
    """The largest difference of the losses of the first epoch, relative to cyoptim's."""
    first = [epochs.losses[0] for epochs in found]
    return (max(first) - min(first)) / abs(first[0])


def run(
    models: list[str], optimizers: list[str], threads: int = 2, runs: int = 3, rounds: int = 5
) -> int:
    """Print the table; return 1 if the losses of contenders differ."""
    lines, apart = [], []
    for model in models:
        for optimizer in optimizers:
            print(f"{model}, {optimizer}", file=sys.stderr, flush=True)
            found = measure(model, optimizer, threads, runs, rounds)
            lines += rows(model, optimizer, found)
            if disagreement(found) > AGREEMENT:
                apart.append(f"{model}, {optimizer}: losses differ by {disagreement(found):.1%}")
    print(table(lines))
    print(*apart, sep="\n", end="\n" if apart else "")
    return int(bool(apart))


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of ``python -m bench epochs``."""
    parser.add_argument("--threads", type=int, default=2, help="of every contender (2)")
    parser.add_argument("--runs", type=int, default=3, help="processes of each contender (3)")
    parser.add_argument("--rounds", type=int, default=5, help="timed epochs of each (5)")
    parser.add_argument("--model", action="append", choices=MODELS, help="this one; repeatable")
    parser.add_argument(
        "--optimizer", action="append", choices=OPTIMIZERS, help="this one; repeatable"
    )


if __name__ == "__main__":
    work(*sys.argv[1:4], threads=int(sys.argv[4]))
