"""What the cards of optimizers share that estimate the distance to the solution."""

from __future__ import annotations

import contextlib
import functools
import io
from typing import Any

import numpy as np

NAN = float("nan")
# Of gradients that have nothing to do with the parameters, estimates may grow without end.
SLOW = {"d0": 0.01, "growth_rate": 1.02}
DISTANCE = (
    ({"d0": 0.0}, ValueError, "Invalid d0 value: 0.0 (expected > 0)"),
    ({"d0": NAN}, ValueError, "Invalid d0 value: nan (expected > 0)"),
    ({"fsdp_in_use": True}, ValueError, "fsdp_in_use=True is not supported: parameters are not"),
)
LOG: Any = (
    ({"log_every": None}, TypeError, "log_every must be a number, got NoneType: None"),
    ({"log_every": np.ones(2)}, TypeError, "log_every"),
    ({"log_every": 10}, ValueError, "log_every=10 is not supported: read param_groups[0]['d']"),
)
GROWTH: Any = (({"growth_rate": 0.0}, ValueError, "Invalid growth_rate value: 0.0 (expected > 0)"),)


def alone(cls: Any) -> Any:
    """The authors' class, which prints, may change gradients, and may divide by zero without any."""

    class Alone(cls):  # type: ignore[misc]
        @functools.wraps(cls.__init__)
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            with contextlib.redirect_stdout(io.StringIO()):
                super().__init__(*args, **kwargs)

        def step(self, closure: Any = None) -> Any:
            loss = None if closure is None else closure()
            params = [p for group in self.param_groups for p in group["params"]]
            grads = [p.grad for p in params]
            for p in params:
                p.grad = None if p.grad is None else p.grad.clone()
            if any(grad is not None for grad in grads):
                super().step()
            for p, grad in zip(params, grads, strict=True):
                p.grad = grad
            return loss

    return Alone


def signed(grads: Any, maximize: bool) -> list[Any]:
    return [None if g is None else np.asarray(-g if maximize else g) for g in grads]
