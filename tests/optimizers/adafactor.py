"""Adafactor in float64, from Shazeer & Stern (2018) with torch's two epsilons."""

from __future__ import annotations

from typing import Any

import numpy as np

from tests.support.bad_options import COMMON, RATE_OF_LATE
from tests.support.cards import CHECKED, DENSE, SAME_BITS, Card, Options, Recipe, Timed, Valley


def rms(x: Any) -> float:
    return float(np.sqrt(np.mean(x**2)))


class Adafactor:
    def __init__(self, lr: float = 1e-2, beta2_decay: float = -0.8, eps: Any = (None, 1e-3), d: float = 1.0, weight_decay: float = 0.0, maximize: bool = False):  # fmt: skip
        self.lr, self.beta2_decay, self.d = lr, beta2_decay, d
        # Machine epsilon is that of the parameters under test, which may be float32.
        self.eps1, self.eps2 = eps
        self.weight_decay, self.maximize = weight_decay, maximize
        self.state: dict[int, Any] = {}

    def step(self, params: list[Any], grads: list[Any]) -> None:
        for i, (p, g) in enumerate(zip(params, grads, strict=True)):
            if g is None:
                continue
            g = -g if self.maximize else g
            t, row, column, v = self.state.get(i, (0, 0.0, 0.0, 0.0))
            t += 1
            beta2 = 1 - t**self.beta2_decay
            alpha = max(self.eps2, rms(p)) * min(self.lr, 1 / np.sqrt(t))
            if p.ndim > 1:
                row = beta2 * row + (1 - beta2) * np.mean(g**2, axis=-1, keepdims=True)
                column = beta2 * column + (1 - beta2) * np.mean(g**2, axis=-2, keepdims=True)
                scale = np.maximum(np.mean(row, axis=-2, keepdims=True), self.eps1)
                estimate = row @ column / scale
            else:
                v = beta2 * v + (1 - beta2) * g**2
                estimate = v
            u = g / np.sqrt(np.maximum(estimate, self.eps1**2))
            p *= 1 - self.lr * self.weight_decay
            p -= alpha * u / max(1.0, rms(u) / self.d)
            self.state[i] = (t, row, column, v)


def with_machine_epsilon(options: Options, dtype: Any) -> Options:
    """Options with the first eps of parameters of this dtype, if they give none."""
    first, second = options.get("eps", (None, 1e-3))
    return {**options, "eps": (float(np.finfo(dtype).eps) if first is None else first, second)}


CARD = Card(
    "Adafactor",
    Adafactor,
    traits=frozenset({DENSE, SAME_BITS, CHECKED}),
    torch="Adafactor",
    for_dtype=with_machine_epsilon,
    variants=(
        {},
        {"lr": 0.5, "weight_decay": 0.1},
        {"lr": 0.1, "weight_decay": 0.1, "maximize": True},
        {"beta2_decay": -0.3, "d": 1.5},
        {"eps": (1e-4, 0.5)},
        {"lr": 0.05, "beta2_decay": -0.5, "eps": (1e-20, 1e-3), "d": 1.5},
    ),
    states=("step", "row_var", "col_var"),
    state_shapes={"row_var": (2, 1), "col_var": (1, 3)},
    bad_as_torch=(
        *RATE_OF_LATE,
        ({"lr": -0.1}, ValueError, "Learning rate should be >= 0 but is: -0.1"),
        ({"beta2_decay": 0.8}, ValueError, "beta2_decay should be <= 0 but is: 0.8"),
        ({"eps": (-1e-30, 1e-3)}, ValueError, "epsilon1 should be >= 0 but is: -1e-30"),
        ({"eps": (None, -1e-3)}, ValueError, "epsilon2 should be >= 0 but is: -0.001"),
        ({"d": 0.0}, ValueError, "Clipping threshold d should be >= 1 but is: 0.0"),
        ({"weight_decay": -0.1}, ValueError, "weight_decay should be >= 0 but is: -0.1"),
        ({"weight_decay": -1}, ValueError, "weight_decay should be >= 0 but is: -1"),
    ),
    bad=(*COMMON, ({"eps": 1e-3}, TypeError, "eps must be a pair of numbers, got 0.001")),
    timed=(
        Timed(
            1,
            {"eps": (float(np.finfo(np.float32).eps), 1e-3)},
            passes=("gp", "g", "gP"),
            matrices=True,
        ),
    ),
    drawing=Recipe(
        "cyoptim.Adafactor([p], lr=0.2)",
        "A matrix of two rows. Steps are relative to the size of the parameter, and slow down.",
        shape=(2, 1),
    ),
    valley=Valley({"lr": 0.1}, 0.9995),
)
