"""Time to accuracy of perceptrons: scikit-learn's own solvers, and those of cyoptim.sklearn.

The data are scikit-learn's digits: 60% of the images for training, 20% to choose each contender's
setting, 20% for the results; each image also shifted by one pixel in the eight directions. The
network, batches and initial weights are the same for all. Each contender has six settings: rates,
or rates and lengths of its schedule in epochs. It uses the setting that first reaches the last
target on the second part of the images, over two seeds. Then all contenders run in turn, from other
seeds. The time is the process time of training, on one thread, so that other processes have
little effect.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

# Before the import of NumPy: limits it to one thread.
if __name__ == "__main__":
    for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[variable] = "1"

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

TARGETS = (0.96, 0.97, 0.975)  # accuracies; settings are chosen for the last one
EPOCHS = 30
NETWORK = {"hidden_layer_sizes": (256,), "batch_size": 200}
ADAM_RATES = (0.001, 0.002, 0.004, 0.008, 0.016, 0.032)
SGD_RATES = (0.025, 0.05, 0.1, 0.2, 0.4, 0.8)
SCHEDULES = tuple((rate, epochs) for epochs in (10, 20) for rate in (0.008, 0.016, 0.032))


@dataclass(frozen=True)
class Contender:
    """An estimator for a setting and a random state, and the six settings to choose from."""

    name: str
    make: Callable[[Any, Any], Any]
    settings: tuple[Any, ...]


def contenders(n_samples: int) -> list[Contender]:
    """scikit-learn's first."""
    from sklearn import neural_network

    import cyoptim.sklearn

    def theirs(**params: Any) -> Callable[[float, Any], Any]:
        return lambda rate, state: neural_network.MLPClassifier(
            learning_rate_init=rate, random_state=state, **NETWORK, **params
        )

    def adamw(rate: float, state: Any, **params: Any) -> Any:
        return cyoptim.sklearn.MLPClassifier(
            optimizer="adamw",
            learning_rate_init=rate,
            random_state=state,
            **NETWORK,
            **params,
        )

    def scheduled(setting: tuple[float, int], state: Any, **params: Any) -> Any:
        rate, epochs = setting
        steps = epochs * -(-n_samples // NETWORK["batch_size"])
        schedule = {"warmup_steps": steps // 10, "total_steps": steps}
        return adamw(
            rate,
            state,
            lr_scheduler="WarmupCosineLR",
            lr_scheduler_params=schedule,
            schedule_per="batch",
            **params,
        )

    return [
        Contender("scikit-learn, adam", theirs(), ADAM_RATES),
        Contender("scikit-learn, sgd, Nesterov 0.9", theirs(solver="sgd"), SGD_RATES),
        Contender("adamw", adamw, ADAM_RATES),
        Contender("adamw, schedule", scheduled, SCHEDULES),
        Contender("adamw, schedule, average", partial(scheduled, weight_averaging=0.98), SCHEDULES),
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
    """For each target the epochs and seconds to reach it, or None; and the seconds per epoch."""

    reached: dict[float, tuple[int, float] | None]
    epoch: float
    final: float


def train(model: Any, train: tuple[Array, Array], test: tuple[Array, Array], epochs: int) -> Run:
    """Run epochs, and test after each."""
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


def choose(contender: Contender, data: list[tuple[Array, Array]], epochs: int) -> Any:
    """The setting that reaches the last target first, in epochs over two seeds."""

    def needed(setting: Any) -> tuple[float, float]:
        runs = [
            train(contender.make(setting, np.random.RandomState(seed)), data[0], data[1], epochs)
            for seed in (100, 101)
        ]
        found = [run.reached[TARGETS[-1]] for run in runs]
        return (
            sum(epochs + 1 if each is None else each[0] for each in found),
            -sum(run.final for run in runs),
        )

    return min(contender.settings, key=needed)


def median(runs: list[Run], target: float) -> str:
    """The median time to a target, and epochs; a dash if fewer than half reach it."""
    found = [run.reached[target] for run in runs]
    times = sorted((np.inf, np.inf) if each is None else each[::-1] for each in found)
    seconds, epochs = (statistics.median(column) for column in zip(*times, strict=True))
    if not np.isfinite(seconds):
        return "-"
    missed = sum(each is None for each in found)
    return f"{seconds:.2f} s ({epochs:.0f})" + (f", {missed} not" if missed else "")


def step_costs(data: tuple[Array, Array]) -> None:
    """Print the time of an epoch in small batches, where the solver's share is large."""
    from sklearn import neural_network

    import cyoptim.sklearn

    print("\nan epoch, adam of either, in batches of")
    print("| | 10 | 50 | 200 |\n| --- | ---: | ---: | ---: |")
    sizes = (10, 50, 200)
    makes = {
        "scikit-learn": neural_network.MLPClassifier,
        "cyoptim.sklearn": partial(cyoptim.sklearn.MLPClassifier, optimizer="adam"),
    }
    least = {(name, size): np.inf for name in makes for size in sizes}
    for _ in range(5):
        for name, size in least:
            model = makes[name](random_state=0, **NETWORK | {"batch_size": size})
            start = time.process_time()
            model.partial_fit(*data, classes=range(10))
            least[name, size] = min(least[name, size], time.process_time() - start)
    for name in makes:
        cells = " | ".join(f"{1000 * least[name, size]:.0f} ms" for size in sizes)
        print(f"| {name} | {cells} |")


def main() -> int:
    """Choose, run in turn, print."""
    parser = argparse.ArgumentParser(prog="python -m bench.sklearn_mlp", description=__doc__)
    parser.add_argument("--seeds", type=int, default=9, help="runs of each contender (9)")
    parser.add_argument("--epochs", type=int, default=EPOCHS, help=f"at most so many ({EPOCHS})")
    options = parser.parse_args()
    data = digits()
    found = contenders(len(data[0][0]))
    settings = {}
    for contender in found:
        settings[contender.name] = choose(contender, data, options.epochs)
        print(f"{contender.name}: {settings[contender.name]}", file=sys.stderr, flush=True)
    runs: dict[str, list[Run]] = {contender.name: [] for contender in found}
    for seed in range(options.seeds):
        for contender in found:
            model = contender.make(settings[contender.name], np.random.RandomState(seed))
            runs[contender.name].append(train(model, data[0], data[2], options.epochs))
    heads = " | ".join(f"{100 * target:g}%" for target in TARGETS)
    print(f"median of {options.seeds} seeds: seconds (and epochs) until so many are read")
    print(f"| | setting | {heads} | after {options.epochs} epochs | an epoch |")
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: |")
    for name, mine in runs.items():
        cells = " | ".join(median(mine, target) for target in TARGETS)
        final = 100 * statistics.median(run.final for run in mine)
        epoch = 1000 * statistics.median(run.epoch for run in mine)
        print(f"| {name} | {settings[name]} | {cells} | {final:.2f}% | {epoch:.0f} ms |")
    step_costs(data[0])
    return 0


if __name__ == "__main__":
    sys.exit(main())
