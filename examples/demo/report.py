"""What the demo prints, and its picture."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from examples.demo.choices import CHOICES, Choice
from examples.demo.training import ROUNDS, Digits, Result, imported


def introduce(choices: Sequence[Choice], digits: Digits, epochs: int) -> str:
    """Return the lines that say what is going to happen."""
    sizes = digits.layer_sizes
    parameters = sum((m + 1) * n for m, n in pairwise(sizes))
    return (
        f"Trains a {'-'.join(map(str, sizes))} network ({parameters:,} parameters) "
        f"on {len(digits.train_x):,} handwritten digits\n"
        f"and tests it on {len(digits.test_x)} others; {epochs} epochs with each of "
        f"{', '.join(choice.label for choice in choices)}.\n"
    )


def tabulate(results: Sequence[Result]) -> str:
    """Return the table of all trainings."""
    lines = ["optimizer      test accuracy   training    one step    in NumPy   speed-up"]
    for r in results:
        lines.append(
            f"{r.choice.label:14} {r.accuracies[-1]:13.1%} {r.seconds:8.2f} s {r.step_us:8.1f} us "
            f"{r.numpy_us:8.1f} us {r.numpy_us / r.step_us:9.1f}x"
        )
    lines.append(
        f"One step: best of {ROUNDS} rounds. NumPy makes the same update, in place; results agree."
    )
    return "\n".join(lines)


def compare(straight: Result, resumed: Sequence[Sequence[float]]) -> str:
    """Return the line that says that a resumed training is the uninterrupted one.

    Raises
    ------
    SystemExit
        If it is not.
    """
    here, there = np.array(straight.losses), np.array(resumed)
    what = f"{straight.choice.label}, saved after epoch {len(here) // 2} of {len(here)} and resumed"
    if not np.array_equal(here, there):
        count = np.count_nonzero(here != there)
        raise SystemExit(f"{what}: {count} of {here.size:,} losses DIFFER")
    return f"{what}: all {here.size:,} losses are bit-identical to those above"


def plot(results: Sequence[Result], path: Path) -> None:
    """Save the picture of all trainings: loss, accuracy and learning rate over the epochs."""
    figure = imported("matplotlib.figure").Figure(figsize=(13, 4.6), layout="constrained")
    figure.get_layout_engine().set(wspace=0.06)
    loss, accuracy, rate = figure.subplots(1, 3)
    for i, r in enumerate(results):
        epochs = np.arange(1, len(r.losses) + 1)
        # Each optimizer's markers have epochs of their own: curves may lie on one another.
        look = r.choice.look | {"markevery": (i, len(CHOICES))}
        loss.plot(epochs, np.mean(r.losses, axis=1), **look)
        accuracy.plot(epochs, 100 * np.array(r.accuracies), **look)
        rate.plot(epochs, r.rates, drawstyle="steps-mid", **look)
    _describe(loss, "Training loss: mean cross-entropy", "log")
    _describe(accuracy, "Test accuracy, %", "linear")
    _describe(rate, "Learning rate: StepLR", "log")
    handles, labels = loss.get_legend_handles_labels()
    figure.legend(
        handles,
        labels,
        loc="outside lower center",
        ncols=len(labels),
        fontsize=12,
        frameon=False,
    )
    figure.savefig(path, format="png", dpi=150)


def _describe(axes: Any, title: str, scale: str) -> None:
    axes.set_title(title, fontsize=14, loc="left")
    axes.set_xlabel("epoch", fontsize=12)
    axes.set_yscale(scale)
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.tick_params(labelsize=11)
    axes.grid(color="0.88")
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
