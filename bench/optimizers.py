"""What the bench knows of an optimizer: a row each.

Options, reference and memory traffic live here and nowhere else.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from tests.optimizers import (
    adadelta,
    adagrad,
    adam,
    adamax,
    asgd,
    nadam,
    radam,
    rmsprop,
    rprop,
    sgd,
)

READ = 1
"""Arrays of a parameter's size that every optimizer reads and does not write: the gradient."""


@dataclass(frozen=True)
class Optimizer:
    """A row of the table of all optimizers."""

    name: str
    reference: Callable[..., Any]  # in float64, from tests/reference
    written: int  # arrays that a step reads and writes: the parameter and its state
    fused: bool = False  # whether torch has a fused kernel for processors
    options: dict[str, Any] = field(default_factory=dict)  # beside the defaults, which are torch's

    @property
    def cls(self) -> str:
        """The class, in cyoptim and in torch.optim."""
        return self.reference.__name__

    @property
    def traffic(self) -> int:
        """How often a step must move as many bytes as there are in the parameters."""
        return READ + 2 * self.written


_ROWS = (
    Optimizer("SGD", sgd.SGD, 1, fused=True),
    Optimizer("SGD-momentum", sgd.SGD, 2, fused=True, options={"momentum": 0.9}),
    Optimizer("Adam", adam.Adam, 3, fused=True),
    Optimizer("AdamW", adam.AdamW, 3, fused=True),
    Optimizer("RMSprop", rmsprop.RMSprop, 2),
    Optimizer("Adagrad", adagrad.Adagrad, 2, fused=True),
    Optimizer("Adadelta", adadelta.Adadelta, 3),
    Optimizer("Adamax", adamax.Adamax, 3),
    Optimizer("NAdam", nadam.NAdam, 3),
    Optimizer("RAdam", radam.RAdam, 3),
    # Until the step t0 the average is a copy, but memory reads the lines that are to be written.
    Optimizer("ASGD", asgd.ASGD, 2),
    Optimizer("ASGD-averaging", asgd.ASGD, 2, options={"t0": 0}),
    # Timed gradients never change their sign, so that the largest step is soon the only one.
    Optimizer("Rprop", rprop.Rprop, 3, options={"lr": 1e-3, "step_sizes": (1e-6, 1e-2)}),
)
OPTIMIZERS = {optimizer.name: optimizer for optimizer in _ROWS}
