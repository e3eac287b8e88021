"""Time until a perceptron reads digits: scikit-learn's own solvers, and those of cyoptim.sklearn.

The data are scikit-learn's digits: 60% of the images for training, 20% to choose each contender's
learning rate by, 20% for the results; each image also shifted by one pixel in the eight directions.
The network, batches and initial weights are the same for all. A contender's rate is the one with
which it first reaches the target on the images to choose by, over two seeds; then all contenders
run in turn, from other seeds, until they reach the target on the images for the results. The time
is that of the process in training alone, on one thread, so that other processes count little.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

# Before NumPy: one thread of its own.
if __name__ == "__main__":
    for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[variable] = "1"

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

TARGETS = (0.97, 0.98, 0.985)  # accuracies; rates are chosen for the middle one
EPOCHS = 60
HORIZON = 30  # epochs of a schedule
NETWORK = {"hidden_layer_sizes": (256,), "batch_size": 200}


@dataclass(frozen=True)
class Contender:
    """An estimator for a learning rate, and the rates to choose from."""

    name: str
    make: Callable[[float, Any], Any]
    rates: tuple[float, ...]


def contenders() -> list[Contender]:
    """scikit-learn's first."""
    from sklearn import neural_network

    import cyoptim.sklearn

    adam_rates = (0.002, 0.004, 0.008, 0.016, 0.032, 0.064)
    sgd_rates = (0.05, 0.1, 0.2, 0.4, 0.8)

    def theirs(**params: Any) -> Callable[[float, Any], Any]:
        return lambda lr, seed: neural_network.MLPClassifier(
            learning_rate_init=lr, random_state=seed, **NETWORK, **params
        )

    def ours(**params: Any) -> Callable[[float, Any], Any]:
        return lambda lr, seed: cyoptim.sklearn.MLPClassifier(
            learning_rate_init=lr, random_state=seed, **NETWORK, **params
        )

    # After the horizon the rate stays low.
    schedule = {
        "lr_scheduler": "PolynomialLR",
        "lr_scheduler_params": {"total_iters": HORIZON, "power": 1.0},
    }
    momentum = {"momentum": 0.9, "nesterov": True}
    return [
        Contender("scikit-learn, adam", theirs(), adam_rates),
        Contender("scikit-learn, sgd, Nesterov 0.9", theirs(solver="sgd"), sgd_rates),
        Contender("adamw", ours(), adam_rates),
        Contender("adamw, linear schedule", ours(**schedule), adam_rates),
        Contender("adamw, average 0.99", ours(weight_averaging=0.99), adam_rates),
        Contender(
            "adamw, both",
            ours(weight_averaging=0.99, **schedule),
            adam_rates,
        ),
        Contender(
            "sgd, Nesterov 0.9, both",
            ours(optimizer="sgd", optimizer_params=momentum, weight_averaging=0.99, **schedule),
            sgd_rates,
        ),
    ]


def shifted(images: Array) -> Array:
    """Images of 8x8 and those shifted by a pixel, the original ones first; zeros come in."""
    wide = np.pad(images.reshape(-1, 8, 8), ((0, 0), (1, 1), (1, 1)))
    places = [(1, 1), *((i, j) for i in range(3) for j in range(3) if (i, j) != (1, 1))]
    return np.concatenate([wide[:, i : i + 8, j : j + 8] for i, j in places]).reshape(-1, 64)


def digits() -> list[tuple[Array, Array]]:
    """Images and labels for training, choosing, and the results."""
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(labels))
    parts = np.split(order, [round(0.6 * len(order)), round(0.8 * len(order))])
    pixels = (images / 16).astype(np.float32)
    return [(shifted(pixels[part]), np.tile(labels[part], 9)) for part in parts]


@dataclass(frozen=True)
class Run:
    """For each target the epochs and seconds until it was reached, or None; seconds an epoch."""

    reached: dict[float, tuple[int, float] | None]
    epoch: float
    final: float


def train(model: Any, train: tuple[Array, Array], test: tuple[Array, Array], epochs: int) -> Run:
    """Run epochs, and look at the test images after each."""
    reached: dict[float, tuple[int, float] | None] = dict.fromkeys(TARGETS)
    seconds, score = 0.0, 0.0
    for epoch in range(1, epochs + 1):
        start = time.process_time()
        model.partial_fit(*train, classes=range(10))
        seconds += time.process_time() - start
        score = model.score(*test)
        for target in TARGETS:
            if score >= target and reached[target] is None:
                reached[target] = epoch, seconds
    return Run(reached, seconds / epochs, score)


def choose(contender: Contender, data: list[tuple[Array, Array]], epochs: int) -> float:
    """The rate that reaches the middle target first, in epochs over two seeds."""

    def needed(rate: float) -> tuple[float, float]:
        runs = [
            train(contender.make(rate, np.random.RandomState(seed)), data[0], data[1], epochs)
            for seed in (100, 101)
        ]
        found = [run.reached[TARGETS[1]] for run in runs]
        return (
            sum(epochs + 1 if each is None else each[0] for each in found),
            -sum(run.final for run in runs),
        )

    return min(contender.rates, key=needed)


def median(runs: list[Run], target: float) -> str:
    """Of the time to a target, and the epochs; a dash if fewer than half reach it."""
    found = [run.reached[target] for run in runs]
    times = sorted((np.inf, np.inf) if each is None else each[::-1] for each in found)
    seconds, epochs = (statistics.median(column) for column in zip(*times, strict=True))
    if not np.isfinite(seconds):
        return "-"
    missed = sum(each is None for each in found)
    return f"{seconds:.2f} s ({epochs:.0f})" + (f", {missed} not" if missed else "")


def main() -> int:
    """Choose, run in turn, print."""
    parser = argparse.ArgumentParser(prog="python -m bench.sklearn_mlp", description=__doc__)
    parser.add_argument("--seeds", type=int, default=5, help="runs of each contender (5)")
    parser.add_argument("--epochs", type=int, default=EPOCHS, help=f"at most so many ({EPOCHS})")
    options = parser.parse_args()
    data = digits()
    found = contenders()
    rates = {}
    for contender in found:
        rates[contender.name] = choose(contender, data, options.epochs)
        print(f"{contender.name}: rate {rates[contender.name]}", file=sys.stderr, flush=True)
    runs: dict[str, list[Run]] = {contender.name: [] for contender in found}
    for seed in range(options.seeds):
        for contender in found:
            model = contender.make(rates[contender.name], np.random.RandomState(seed))
            runs[contender.name].append(train(model, data[0], data[2], options.epochs))
    heads = [f"{100 * target:g}%" for target in TARGETS]
    print(f"median of {options.seeds} seeds: seconds (and epochs) until so many are read")
    print(f"| | rate | {' | '.join(heads)} | after {options.epochs} epochs | an epoch |")
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: |")
    for name, mine in runs.items():
        cells = [median(mine, target) for target in TARGETS]
        final = statistics.median(run.final for run in mine)
        epoch = statistics.median(run.epoch for run in mine)
        print(
            f"| {name} | {rates[name]} | {' | '.join(cells)} "
            f"| {100 * final:.2f}% | {1000 * epoch:.0f} ms |"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
