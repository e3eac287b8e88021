"""scikit-learn's own solvers, in terms of this package's optimizers."""

from __future__ import annotations

import math
import pickle
from typing import Any

import numpy as np

from cyoptim import optimizers
from cyoptim._names import OPTIMIZERS
from cyoptim.optimizer import Optimizer
from cyoptim.sklearn._training import Recipe, Training, is_set, spelt


def _unique(value: Any) -> Any:
    """An equal object that ``is`` tells from all others; there is only one True."""
    return pickle.loads(pickle.dumps(value))


DEFAULTS: dict[str, Any] = {
    name: _unique(value)
    for name, value in {
        "solver": "adam",
        "learning_rate": "constant",
        "learning_rate_init": 0.001,
        "power_t": 0.5,
        "momentum": 0.9,
        "nesterovs_momentum": True,
        "beta_1": 0.9,
        "beta_2": 0.999,
        "epsilon": 1e-8,
        "max_fun": 15000,
    }.items()
}
"""scikit-learn's defaults of its solvers' parameters.

A value that the user has given is told from a default by identity, as it may be equal: with an
`optimizer`, 0.001 is a learning rate, and the default is the optimizer's own.
"""

# For messages: what to write with an optimizer.
INSTEAD = {
    "learning_rate": "lr_scheduler=",
    "power_t": "lr_scheduler= and lr_scheduler_params=",
    "momentum": "optimizer_params={'momentum': ...}",
    "nesterovs_momentum": "optimizer_params={'nesterov': ...}",
    "beta_1": "optimizer_params={'betas': (beta_1, beta_2)}",
    "beta_2": "optimizer_params={'betas': (beta_1, beta_2)}",
    "epsilon": "optimizer_params={'eps': ...}",
}

# What a solver that evaluates all samples at once, over and over, has no use for.
STOCHASTIC = ("lr_scheduler", "lr_scheduler_params", "clip_norm", "weight_averaging")


def given(estimator: Any) -> list[str]:
    """The parameters of scikit-learn's solvers that the user has given."""
    return [name for name, value in DEFAULTS.items() if getattr(estimator, name) is not value]


def check_name(solver: Any) -> None:
    """Raise for the name of an optimizer that is not scikit-learn's."""
    if not isinstance(solver, str) or solver in ("lbfgs", "sgd", "adam"):
        return
    if solver.lower() in map(str.lower, OPTIMIZERS):
        raise ValueError(
            f"solver={solver!r}: scikit-learn's solvers are 'lbfgs', 'sgd' and 'adam'; write "
            f"optimizer={solver!r}"
        )


def check_spelling(estimator: Any) -> None:
    """Raise for parameters of both spellings."""
    if estimator.optimizer is None:
        _check_solver_alone(estimator)
    else:
        _check_optimizer_alone(estimator)


def _check_optimizer_alone(estimator: Any) -> None:
    """With an optimizer, of the solvers' parameters only the learning rate has a meaning."""
    if not (strange := [name for name in given(estimator) if name != "learning_rate_init"]):
        return
    found = f"{spelt(estimator, ['optimizer'])} and {spelt(estimator, strange)}"
    instead = [f"{INSTEAD[name]} for {name}=" for name in strange if name in INSTEAD]
    message = f"{found}: drop optimizer=, or drop {', '.join(name + '=' for name in strange)}"
    raise ValueError(message + (f" and write {', '.join(instead)}" if instead else ""))


def _check_solver_alone(estimator: Any) -> None:
    solver, scheduler = estimator.solver, estimator.lr_scheduler
    if estimator.optimizer_params:
        raise ValueError(
            f"optimizer_params={estimator.optimizer_params!r} without an optimizer: write "
            f"optimizer={solver!r} as well, or drop optimizer_params= and write scikit-learn's "
            "momentum=, beta_1= and others"
        )
    strange = [name for name in STOCHASTIC if is_set(getattr(estimator, name))]
    if solver == "lbfgs" and strange:
        raise ValueError(
            f"solver='lbfgs' and {spelt(estimator, strange)}: it takes no steps on batches; drop "
            f"{', '.join(name + '=' for name in strange)}, or take another solver"
        )
    if solver == "sgd" and scheduler is not None and "learning_rate" in given(estimator):
        raise ValueError(f"{spelt(estimator, ['learning_rate', 'lr_scheduler'])}: drop one of them")


def recipe_of(estimator: Any) -> Recipe:
    """The recipe of a stochastic solver."""
    rate = float(estimator.learning_rate_init)
    if estimator.solver == "adam":
        betas = (estimator.beta_1, estimator.beta_2)
        return Recipe.of(estimator, Adam, {"lr": rate, "betas": betas, "eps": estimator.epsilon})
    options = {
        "lr": rate,
        "momentum": estimator.momentum,
        "nesterov": bool(estimator.nesterovs_momentum and estimator.momentum > 0),
    }
    return Recipe.of(estimator, optimizers.SGD, options)


class Adam(optimizers.Adam):
    """Adam that adds `eps` before the bias correction of the second moment, as scikit-learn's."""

    def step(self, *args: Any, **kwargs: Any) -> Any:
        """Step with the `eps` that the correction turns into the given one."""
        for group in self.param_groups:
            state = self.state.get(group["params"][0], {})
            correction = 1 - group["betas"][1] ** (int(state.get("step", 0)) + 1)
            group["eps"] = self.defaults["eps"] / math.sqrt(correction)
        return super().step(*args, **kwargs)


def set_rate(optimizer: Optimizer, rate: float) -> None:
    """Change the learning rate, but not how far momentum carries the parameters.

    scikit-learn's velocity is a sum of steps, ours a sum of gradients, which the rate multiplies.
    """
    for group in optimizer.param_groups:
        factor = min(group["lr"] / rate, 1e300) if rate else 0.0
        group["lr"] = rate
        for param in group["params"]:
            if (velocity := optimizer.state[param].get("momentum_buffer")) is not None:
                most = np.finfo(velocity.dtype).max  # beyond, the rate is too small for a step
                velocity[...] = np.clip(velocity.astype(np.float64) * factor, -most, most)


class Solver:
    """The interface of solvers in scikit-learn's training loop."""

    def __init__(self, training: Training, estimator: Any) -> None:
        self.training = training
        scheduled = estimator.optimizer is None and estimator.solver == "sgd"
        self.schedule = estimator.learning_rate if scheduled else "constant"
        self.first_rate, self.power = estimator.learning_rate_init, float(estimator.power_t)

    @property
    def learning_rate(self) -> float | list[float]:
        """The current learning rate."""
        return self.training.lr

    def update_params(self, params: Any, grads: Any) -> None:
        """Step."""
        self.training.step(grads)

    def iteration_ends(self, time_step: int) -> None:
        """Scale the rate by the number of samples; other schedules have seen the epoch's loss."""
        if self.schedule == "invscaling":
            set_rate(self.training.optimizer, self.first_rate * (time_step + 1) ** -self.power)

    def trigger_stopping(self, message: str, verbose: Any) -> bool:
        """Whether to stop when the loss no longer improves: "adaptive" first lowers the rate."""
        rate = self.training.optimizer.param_groups[0]["lr"]
        if self.schedule == "adaptive" and rate > 1e-6:
            set_rate(self.training.optimizer, rate / 5)
            if verbose:
                print(f"{message} Setting learning rate to {rate / 5:f}")
            return False
        if verbose:
            small = " Learning rate too small." if self.schedule == "adaptive" else ""
            print(f"{message}{small} Stopping.")
        return True
