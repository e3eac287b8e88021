"""Runs every optimizer on Rosenbrock's function, as its page shows it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

import cyoptim

START = (-1.2, 1.0)
MINIMUM = (1.0, 1.0)
STEEPNESS = 10
STEPS = 200
PLAIN = "cyoptim.SGD([p], lr=0.004)"
"""What all others are compared with."""


@dataclass
class Recipe:
    code: str
    note: str = ""
    shape: tuple[int, ...] = (2,)
    sparse: bool = False


RECIPES = {
    "SGD": Recipe(
        "cyoptim.SGD([p], lr=0.004, momentum=0.9)",
        "Momentum carries it through the bend and along the floor, where plain SGD creeps.",
    ),
    "Adam": Recipe(
        "cyoptim.Adam([p], lr=0.1)",
        "Each coordinate goes about `lr` a step, however steep or flat it is.",
    ),
    "AdamW": Recipe(
        "cyoptim.AdamW([p], lr=0.1, weight_decay=0.1)",
        "Adam's path, ending short of the minimum: the decay draws both coordinates to zero.",
    ),
    "Adamax": Recipe(
        "cyoptim.Adamax([p], lr=0.2)",
        "The largest gradient seen lately sets the pace: a steep wall is remembered longer.",
    ),
    "NAdam": Recipe(
        "cyoptim.NAdam([p], lr=0.05)",
        "Adam that looks ahead along its momentum: less swing.",
    ),
    "RAdam": Recipe(
        "cyoptim.RAdam([p], lr=0.03)",
        "The first steps are plain momentum's, until enough gradients are seen to divide by.",
    ),
    "RMSprop": Recipe(
        "cyoptim.RMSprop([p], lr=0.02)",
        "Like Adam without momentum: straight to the floor, then along it at `lr` a step.",
    ),
    "Adagrad": Recipe(
        "cyoptim.Adagrad([p], lr=0.5)",
        "Steps shrink as squared gradients add up, and never grow again.",
    ),
    "Adadelta": Recipe(
        "cyoptim.Adadelta([p], lr=10)",
        "No learning rate has to be found, but the first steps are tiny: ten times the default.",
    ),
    "ASGD": Recipe(
        "cyoptim.ASGD([p], lr=0.004, t0=50)",
        "The path is SGD's. The average of all points since step 50 is the dashed line.",
    ),
    "Rprop": Recipe(
        "cyoptim.Rprop([p], lr=0.02)",
        "Only signs count: a coordinate's step grows while its sign stays, and halves at a turn.",
    ),
    "SparseAdam": Recipe(
        "cyoptim.SparseAdam([p], lr=0.05)",
        "Each gradient names one row, in turn: only that coordinate moves.",
        shape=(2, 1),
        sparse=True,
    ),
    "Adafactor": Recipe(
        "cyoptim.Adafactor([p], lr=0.2)",
        "A matrix of two rows. Steps are relative to the size of the parameter, and slow down.",
        shape=(2, 1),
    ),
    "Muon": Recipe(
        "cyoptim.Muon([p], lr=0.025, weight_decay=0)",
        "A matrix of two rows, whose step has one length whatever the gradient's: it circles "
        "the minimum at that distance until a schedule takes the rate down.",
        shape=(2, 1),
    ),
    "LBFGS": Recipe(
        'cyoptim.LBFGS([p], max_iter=1, max_eval=20, line_search_fn="strong_wolfe")',
        "It learns the curvature from its last steps. A step may evaluate the loss several times.",
    ),
}


@dataclass
class Path:
    """The points of a run, the losses there, and the average that the optimizer keeps, if any."""

    points: NDArray[np.float64]
    losses: NDArray[np.float64]
    average: NDArray[np.float64] | None


def recipe(name: str) -> Recipe:
    return RECIPES.get(name, Recipe(f"cyoptim.{name}([p])"))


def loss(x: Any, y: Any) -> Any:
    return (1 - x) ** 2 + STEEPNESS * (y - x * x) ** 2


def gradient(x: float, y: float) -> NDArray[np.float64]:
    wall = 2 * STEEPNESS * (y - x * x)
    return np.array([-2 * x * wall - 2 * (1 - x), wall])


def run(chosen: Recipe) -> Path:
    p = np.array(START).reshape(chosen.shape)
    optimizer = eval(chosen.code, {"cyoptim": cyoptim, "p": p})
    points, averages = [p.flatten()], []
    for number in range(STEPS):
        _step(optimizer, p, chosen, number)
        points.append(p.flatten())
        if "ax" in optimizer.state[p]:
            averages.append(optimizer.state[p]["ax"].copy())
    path = np.array(points)
    return Path(path, loss(path[:, 0], path[:, 1]), np.array(averages) if averages else None)


def _step(optimizer: Any, p: NDArray[np.float64], chosen: Recipe, number: int) -> None:
    def loss_and_gradients() -> tuple[float, list[NDArray[np.float64]]]:
        return float(loss(*p.flat)), [gradient(*p.flat).reshape(p.shape)]

    if isinstance(optimizer, cyoptim.LBFGS):
        optimizer.step(loss_and_gradients)
    elif chosen.sparse:
        row = [number % 2]
        optimizer.step(grads=[(np.array(row), loss_and_gradients()[1][0][row])])
    else:
        optimizer.step(grads=loss_and_gradients()[1])
