"""Adafactor of Shazeer & Stern (2018) with the options of transformers' ``Adafactor``."""

import inspect

import numpy as np

from tests.optimizers.adafactor import rms
from tests.support.bad_options import DECAY, INF, MISSPELT, NAN, RATE
from tests.support.cards import CHECKED, DENSE, SAME_BITS, Card, Recipe, Source, Timed, Valley


def factored(state, name, g2, weight):
    """1 / sqrt of the estimate of mean squares, whose averages are kept in `state`."""
    if g2.ndim < 2:
        v = state[name] = (1 - weight) * state.get(name, 0.0) + weight * g2
        return 1 / np.sqrt(v)
    means = g2.mean(axis=-1, keepdims=True), g2.mean(axis=-2, keepdims=True)
    old = state.get(name, (0.0, 0.0))
    row, column = state[name] = tuple(
        (1 - weight) * a + weight * b for a, b in zip(old, means, strict=True)
    )
    return 1 / np.sqrt(row / row.mean(axis=-2, keepdims=True)) / np.sqrt(column)


class AdafactorHF:
    def __init__(
        self, lr=None, eps=(1e-30, 1e-3), clip_threshold=1.0, decay_rate=-0.8, beta1=None,
        weight_decay=0.0, scale_parameter=True, relative_step=None, warmup_init=False,
        maximize=False,
    ):  # fmt: skip
        self.__dict__.update(locals())
        self.state = {}

    def step(self, params, grads):
        for i, (p, g) in enumerate(zip(params, grads, strict=True)):
            if g is None:
                continue
            g = -g if self.maximize else g
            state = self.state.setdefault(i, {"t": 0})
            t = state["t"] = state["t"] + 1
            rate = self.lr
            if rate is None:
                rate = min(1e-6 * t if self.warmup_init else 1e-2, 1 / np.sqrt(t))
            if self.scale_parameter:
                rate = rate * max(self.eps[1], rms(p))
            u = g * factored(state, "v", g**2 + self.eps[0], t**self.decay_rate)
            u = rate * u / max(1.0, rms(u) / self.clip_threshold)
            if self.beta1 is not None:
                u = state["m"] = self.beta1 * state.get("m", 0.0) + (1 - self.beta1) * u
            p *= 1 - rate * self.weight_decay
            p -= u


def with_lr_alone(cls):
    """The class with relative steps only where there is no lr."""

    class Adafactor(cls):
        __signature__ = inspect.signature(cls)

        def __init__(self, params, lr=None, **options):
            options.setdefault("relative_step", lr is None)
            super().__init__(params, lr=lr, **options)

    return Adafactor


CARD = Card(
    "AdafactorHF",
    AdafactorHF,
    traits=frozenset({DENSE, SAME_BITS, CHECKED}),
    variants=(
        {},
        {"lr": 0.01, "weight_decay": 0.1},
        {"lr": 0.01, "scale_parameter": False, "beta1": 0.9, "weight_decay": 0.1},
        {"lr": 0.1, "scale_parameter": False, "clip_threshold": 0.5, "decay_rate": -0.5, "eps": (1e-3, 0.1)},
        {"warmup_init": True, "beta1": 0.5},
        {"lr": 0.05, "beta1": 0.9, "eps": (1e-30, 0.5), "maximize": True},
    ),
    states=("step", "exp_avg_sq_row", "exp_avg_sq_col"),
    more_states={"beta1": ("exp_avg",)},
    state_shapes={"exp_avg_sq_row": (2,), "exp_avg_sq_col": (3,)},
    history={"beta1": 0.9},
    bad=(
        *RATE,
        *DECAY,
        *MISSPELT,
        ({"lr": 0.1, "relative_step": True}, ValueError, "Cannot combine manual `lr` and `relative_step=True` options"),
        ({"relative_step": False}, ValueError, "relative_step=False needs an lr"),
        ({"lr": 0.1, "warmup_init": True}, ValueError, "`warmup_init=True` requires `relative_step=True`"),
        ({"eps": 1e-3}, TypeError, "eps must be a pair of numbers, got 0.001"),
        ({"eps": (-1e-3, 1.0)}, ValueError, "Invalid eps[0] value: -0.001"),
        ({"clip_threshold": 0.0}, ValueError, "Invalid clip_threshold value: 0.0"),
        ({"decay_rate": 0.8}, ValueError, "Invalid decay_rate value: 0.8"),
        ({"decay_rate": -INF}, ValueError, "Invalid decay_rate value: -inf (expected a finite number)"),
        ({"decay_rate": NAN}, ValueError, "Invalid decay_rate value: nan (expected a finite number)"),
        ({"decay_rate": None}, TypeError, "decay_rate must be a number, got NoneType: None"),
        ({"beta1": 1.5}, ValueError, "Invalid beta1 value: 1.5"),
    ),
    source=Source(
        "transformers.optimization.Adafactor", "5.24.0", place="transformers",
        twin=with_lr_alone, removed="relative steps by default, where there is an lr",
    ),
    timed=(Timed(1, passes=("gp", "g", "gP"), matrices=True),),
    drawing=Recipe(
        "cyoptim.AdafactorHF([p], lr=0.2)",
        "A matrix of two rows. Steps are relative to the size of the parameter.",
        shape=(2, 1),
    ),
    valley=Valley({"lr": 0.03}, 0.9997),
)  # fmt: skip
