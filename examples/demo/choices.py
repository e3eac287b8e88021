"""The optimizers that are compared, each with the same update in NumPy."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

import cyoptim
from examples.demo import updates
from examples.demo.updates import Options


@dataclass(frozen=True)
class Choice:
    """An optimizer with the options that suit the task, and its look in the picture."""

    create: type[Any]
    lr: float
    weight_decay: float
    numpy_update: Callable[..., None]
    colour: str
    marker: str
    options: Options = field(default_factory=dict)
    decoupled: bool = False

    @property
    def label(self) -> str:
        """Name for tables and legends."""
        name: str = self.create.__name__
        return f"{name}+momentum" if "momentum" in self.options else name

    @property
    def look(self) -> Options:
        """How its curves are drawn."""
        return {"color": self.colour, "marker": self.marker, "label": self.label}


# The colours are those of Okabe and Ito, which colour-blind readers can tell apart.
CHOICES = {
    "adam": Choice(cyoptim.Adam, 2e-3, 1e-4, updates.adam, "#0072B2", "o"),
    "adamw": Choice(cyoptim.AdamW, 3e-3, 1e-2, updates.adamw, "#D55E00", "s", decoupled=True),
    "sgd": Choice(cyoptim.SGD, 5e-2, 1e-4, updates.sgd, "#009E73", "^", {"momentum": 0.9}),
    "rmsprop": Choice(cyoptim.RMSprop, 1e-3, 1e-4, updates.rmsprop, "#CC79A7", "D"),
    "adagrad": Choice(cyoptim.Adagrad, 2e-2, 1e-4, updates.adagrad, "#E69F00", "v"),
}


class NumPyTwin:
    """Steps copies of an optimizer's parameters by a NumPy update, from before the first step.

    Parameters
    ----------
    choice : Choice
        Which update.
    optimizer : Optimizer
        Whose parameters are copied, and whose options and gradients each step uses.
    """

    def __init__(self, choice: Choice, optimizer: cyoptim.Optimizer) -> None:
        self._choice = choice
        self._rows = [
            (param, param.data.copy(), *np.zeros((4, *param.shape), param.dtype), group)
            for group in optimizer.param_groups
            for param in group["params"]
        ]
        self.params = [row[1] for row in self._rows]
        self._t = 0

    def step(self) -> None:
        """Update the copies by the gradients of the originals."""
        self._t += 1
        for original, p, m, v, u, d, options in self._rows:
            if options["weight_decay"] and not self._choice.decoupled:
                np.multiply(p, options["weight_decay"], out=d)
                d += original.grad
            else:
                d = original.grad
            self._choice.numpy_update(p, d, m, v, u, self._t, options)
