"""What the references and cards of Schedule-Free optimizers share."""

from __future__ import annotations

import functools
import inspect
from typing import Any

from tests.support.bad_options import NAN
from tests.support.cards import Refusal

BAD_NUMBERS: tuple[Refusal, ...] = (
    ({"r": NAN}, ValueError, "Invalid r value: nan"),
    ({"weight_lr_power": float("inf")}, ValueError, "Invalid weight_lr_power value: inf"),
)
NO_AVERAGE: tuple[Refusal, ...] = (
    ({"betas": (0.0, 0.999)}, ValueError, "betas[0] must be > 0, as the average needs it, got 0.0"),
)
REMOVED = "in training mode from the beginning; gradients are copied, as it writes into them"


class Average:
    """How much each iterate weighs in the average of a group."""

    def __init__(self, warmup_steps: float, r: float, power: float) -> None:
        self.warmup_steps, self.r, self.power = warmup_steps, r, power
        self.t, self.largest, self.total = 0, 0.0, 0.0

    def step(self, lr: float, rect: float = 1.0) -> tuple[float, float]:
        """The rate of the next step, and the share of its iterate."""
        self.t += 1
        lr = lr * rect * (min(1.0, self.t / self.warmup_steps) if self.warmup_steps else 1.0)
        self.largest = max(self.largest, lr)
        weight = self.t**self.r * self.largest**self.power
        self.total += weight
        return lr, weight / self.total if self.total else 0.0


def in_training(cls: Any) -> Any:
    """A class of schedulefree in training mode from the beginning, which leaves gradients as they are."""

    class Twin(cls):  # type: ignore[misc]
        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **options)
            self.train()

        def step(self, closure: Any = None) -> Any:
            params = [p for group in self.param_groups for p in group["params"]]
            grads = [p.grad for p in params]
            for p, grad in zip(params, grads, strict=True):
                p.grad = None if grad is None else grad.clone()
            try:
                return super().step(closure)
            finally:
                for p, grad in zip(params, grads, strict=True):
                    p.grad = grad

    Twin.__name__, Twin.__signature__ = cls.__name__, inspect.signature(cls)  # type: ignore[attr-defined]
    return Twin


@functools.cache
def trained(cls: Any) -> Any:
    """Our class in training mode from the beginning, for the tests of all optimizers."""

    def complete(self: Any, group: Any, others: Any) -> Any:
        return cls._complete_group(self, {"train_mode": True, **group}, others)

    body = {"__module__": __name__, "__doc__": cls.__doc__, "_complete_group": complete}
    return type(cls.__name__, (cls,), body)


def __getattr__(name: str) -> Any:  # for pickles of the classes above
    if name.endswith("ScheduleFree"):
        import cyoptim

        return trained(getattr(cyoptim, name))
    raise AttributeError(name)
