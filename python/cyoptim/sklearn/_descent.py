"""scikit-learn's stochastic gradient descent: its learning rates, as schedules of this package.

Those of passive-aggressive steps are factors of the slopes instead, as each sample has its own.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.utils.extmath import row_norms

from cyoptim import optimizers
from cyoptim.lr_scheduler import LambdaLR
from cyoptim.sklearn._training import Array, Recipe, is_set, spelt

AGGRESSIVE = ("pa1", "pa2")
RATES = frozenset({"constant", "optimal", "invscaling", "adaptive", *AGGRESSIVE})

# What `learning_rate` decides itself.
REPLACED = (
    "optimizer",
    "optimizer_params",
    "learning_rate_init",
    "lr_scheduler",
    "lr_scheduler_params",
)


@dataclass(frozen=True)
class InversePower:
    """The factor ``t ** -power`` of step t = 1, 2, ..."""

    power: float

    def __call__(self, steps: int) -> float:
        """The factor after this number of steps."""
        return float((steps + 1) ** -self.power)


@dataclass(frozen=True)
class Optimal:
    """The factor ``start / (start + t - 1)`` of step t = 1, 2, ..."""

    start: float

    def __call__(self, steps: int) -> float:
        """The factor after this number of steps."""
        return self.start / (self.start + steps)


def check_spelling(estimator: Any) -> None:
    """Raise for parameters of both spellings, and for some that have no effect."""
    if estimator.average and estimator.weight_averaging is not None:
        raise ValueError(
            f"average={estimator.average} and weight_averaging={estimator.weight_averaging}: drop "
            "one of them; the former is the mean of all steps, the latter a moving average"
        )
    if estimator.penalty == "elasticnet" and estimator.l1_ratio is None:
        raise ValueError("penalty='elasticnet' needs an l1_ratio, expected a number in [0, 1]")
    if estimator.learning_rate is None:
        _check_no_rate(estimator)
        return
    if strange := [name for name in REPLACED if is_set(getattr(estimator, name))]:
        raise ValueError(
            f"learning_rate={estimator.learning_rate!r} and {spelt(estimator, strange)}: drop "
            "learning_rate=, which is scikit-learn's stochastic gradient descent from eta0=, or "
            f"drop {', '.join(name + '=' for name in strange)}"
        )
    if estimator.learning_rate in AGGRESSIVE and estimator.loss != estimator._aggressive_loss:
        raise ValueError(
            f"learning_rate={estimator.learning_rate!r} and loss={estimator.loss!r}: write "
            f"loss={estimator._aggressive_loss!r}, the one that passive-aggressive steps end, or "
            "another learning_rate="
        )
    if estimator.learning_rate == "optimal" and estimator.alpha == 0:
        raise ValueError("learning_rate='optimal' needs alpha > 0, from which it computes the rate")


def _check_no_rate(estimator: Any) -> None:
    for name in ("eta0", "power_t"):
        if (value := getattr(estimator, name)) is not None:
            raise ValueError(
                f"{name}={value!r} without learning_rate=: write learning_rate='adaptive', "
                "'constant', 'invscaling', 'optimal', 'pa1' or 'pa2' as well; scikit-learn's "
                f"default is {estimator._scikit_rate!r}. For an optimizer, write "
                f"learning_rate_init= and lr_scheduler= instead of {name}="
            )


def first_rate(estimator: Any) -> float:
    """`eta0`, or scikit-learn's default."""
    return 0.01 if estimator.eta0 is None else float(estimator.eta0)


def lengths(estimator: Any, X: Any, losses: Array) -> Array:
    """The factors of passive-aggressive steps at the rate `eta0`, one for each loss of a sample.

    Each sample steps along itself: with "pa1" until its own loss is 0, but no further than the rate
    allows; with "pa2" by less, the more so the lower the rate. A sample without features, which no
    step of coefficients helps, makes none with "pa1".
    """
    rate, squares = first_rate(estimator), row_norms(X, squared=True)[:, None]
    if estimator.learning_rate == "pa2":
        found: Array = losses / (rate * squares + 0.5)
    else:
        whole = rate * squares
        found = np.minimum(np.divide(losses, whole, out=np.zeros_like(losses), where=whole > 0), 1)
    return found


def recipe_of(estimator: Any) -> Recipe:
    """Plain descent at the rates of `learning_rate`."""
    rate = first_rate(estimator)
    factor: InversePower | Optimal | None = None
    if estimator.learning_rate == "invscaling":
        power = estimator.power_t
        factor = InversePower(estimator._scikit_power if power is None else float(power))
    elif estimator.learning_rate == "optimal":
        rate = 1 / math.sqrt(math.sqrt(estimator.alpha))  # a typical weight
        factor = Optimal(1 / (rate * estimator.alpha))
    return Recipe(
        optimizers.SGD,
        {"lr": rate},
        None if factor is None else LambdaLR,
        {} if factor is None else {"lr_lambda": factor},
        "batch",
        "max" if estimator.early_stopping else "min",
    )


def lower_rate(optimizer: Any) -> bool:
    """Divide the rate by five, if it is not yet tiny."""
    group = optimizer.param_groups[0]
    if group["lr"] <= 1e-6:
        return False
    group["lr"] /= 5
    return True
