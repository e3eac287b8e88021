"""Runs every optimizer on Rosenbrock's function, as its page shows it and its card says."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

import cyoptim
from tests.optimizers import CARDS
from tests.support.cards import Recipe

START = (-1.2, 1.0)
MINIMUM = (1.0, 1.0)
STEEPNESS = 10
STEPS = 200
PLAIN = "cyoptim.SGD([p], lr=0.004)"
"""What all others are compared with."""


# One for each optimizer that a card draws; the others are drawn with their defaults.
RECIPES = {card.name: card.drawing for card in CARDS if card.drawing is not None}


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
    trains = hasattr(optimizer, "train")
    if trains:
        optimizer.train()
    points, averages = [p.flatten()], []
    for number in range(STEPS):
        _step(optimizer, p, chosen, number)
        points.append(p.flatten())
        if "ax" in optimizer.state[p]:
            averages.append(optimizer.state[p]["ax"].copy())
        elif trains:
            with optimizer.averaged():
                averages.append(p.flatten())
    path = np.array(points)
    return Path(path, loss(path[:, 0], path[:, 1]), np.array(averages) if averages else None)


def _step(optimizer: Any, p: NDArray[np.float64], chosen: Recipe, number: int) -> None:
    def loss_and_gradients() -> tuple[float, list[NDArray[np.float64]]]:
        return float(loss(*p.flat)), [gradient(*p.flat).reshape(p.shape)]

    if chosen.closure:
        optimizer.step(loss_and_gradients)
    elif chosen.sparse:
        row = [number % 2]
        optimizer.step(grads=[(np.array(row), loss_and_gradients()[1][0][row])])
    else:
        optimizer.step(grads=loss_and_gradients()[1])
