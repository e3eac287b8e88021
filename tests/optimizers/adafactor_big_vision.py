"""Adafactor of Zhai et al. (2022), appendix B, with the options of timm's ``AdafactorBigVision``."""

import inspect

import numpy as np

from tests.optimizers.adafactor import rms
from tests.support.bad_options import COMMON, DECAY, INF, NAN, RATE
from tests.support.cards import CHECKED, DENSE, SAME_BITS, Card, Recipe, Source, Timed, Valley


class AdafactorBigVision:
    def __init__(
        self, lr=1.0, min_dim_size_to_factor=16, decay_rate=0.8, decay_offset=0, beta2_cap=0.999,
        momentum=0.9, eps=None, weight_decay=0.0, clipping_threshold=None, unscaled_wd=False,
        caution=False, maximize=False,
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
            beta2 = min(self.beta2_cap, 1 - max(t - self.decay_offset, 1) ** -self.decay_rate)
            squares = g**2 + (1e-30 if self.eps is None else self.eps)
            order = np.argsort(p.shape, kind="stable")
            if p.ndim > 1 and p.shape[order[-2]] >= self.min_dim_size_to_factor:
                shorter, longer = int(order[-2]), int(order[-1])
                r, c = state.get("v", (0.0, 0.0))
                r = beta2 * r + (1 - beta2) * squares.mean(axis=longer, keepdims=True)
                c = beta2 * c + (1 - beta2) * squares.mean(axis=shorter, keepdims=True)
                state["v"] = r, c
                u = g / np.sqrt(r / r.mean(axis=shorter, keepdims=True)) / np.sqrt(c)
            else:
                v = state["v"] = beta2 * state.get("v", 0.0) + (1 - beta2) * squares
                u = g / np.sqrt(v)
            if self.clipping_threshold is not None:
                u = u / max(1.0, rms(u) / self.clipping_threshold)
            if self.momentum is not None:
                u = state["m"] = self.momentum * state.get("m", 0.0) + (1 - self.momentum) * u
                if self.caution:
                    mask = u * g > 0
                    u = u * mask / max(mask.mean(), 1e-3)
            p *= 1 - self.weight_decay * (1 if self.unscaled_wd else self.lr)
            p -= self.lr * u


def without_casts(cls):
    """The class with the momentum in the parameter's own type."""

    class Wide(cls):
        __signature__ = inspect.signature(cls)

        def __init__(self, params, **options):
            params = [*params]
            super().__init__(params, momentum_dtype=params[0].dtype, **options)

    return Wide


CARD = Card(
    "AdafactorBigVision",
    AdafactorBigVision,
    traits=frozenset({DENSE, SAME_BITS, CHECKED}),
    variants=(
        {"lr": 0.01, "min_dim_size_to_factor": 2},
        {"lr": 0.01, "min_dim_size_to_factor": 2, "weight_decay": 0.1},
        {"lr": 0.01, "min_dim_size_to_factor": 2, "weight_decay": 0.01, "unscaled_wd": True, "momentum": None},
        {"lr": 0.01, "min_dim_size_to_factor": 2, "clipping_threshold": 0.5, "eps": 1e-3, "decay_offset": 5},
        {"lr": 0.01, "min_dim_size_to_factor": 2, "caution": True, "beta2_cap": 0.9, "decay_rate": 0.5},
        {"lr": 0.01, "min_dim_size_to_factor": 2, "caution": True, "maximize": True},
    ),
    states=("step", "exp_avg_sq_r", "exp_avg_sq_c"),
    more_states={"momentum": ("exp_avg",)},
    state_shapes={"exp_avg_sq_r": (2, 1), "exp_avg_sq_c": (1, 3)},
    history={"min_dim_size_to_factor": 2},
    bad=(
        *RATE,
        *DECAY,
        *COMMON,
        ({"min_dim_size_to_factor": "2"}, TypeError, "min_dim_size_to_factor must be a number, got str: '2'"),
        *(({name: value}, ValueError, f"Invalid {name} value: {value} (expected a whole number >= 0)")
          for name in ("min_dim_size_to_factor", "decay_offset") for value in (-1, 0.5, NAN, INF)),
        *(({name: None}, TypeError, f"{name} must be a number, got NoneType: None")
          for name in ("min_dim_size_to_factor", "decay_offset", "decay_rate", "beta2_cap")),
        ({"decay_rate": INF}, ValueError, "Invalid decay_rate value: inf (expected a finite number)"),
        ({"momentum": None, "caution": True}, ValueError, "caution=True requires a momentum"),
        ({"decay_rate": -0.8}, ValueError, "Invalid decay_rate value: -0.8"),
        ({"beta2_cap": 1.5}, ValueError, "Invalid beta2_cap value: 1.5"),
        ({"momentum": -0.5}, ValueError, "Invalid momentum value: -0.5"),
        ({"eps": -1e-3}, ValueError, "Invalid epsilon value: -0.001"),
        ({"clipping_threshold": 0.0}, ValueError, "Invalid clipping_threshold value: 0.0"),
    ),
    source=Source(
        "timm.optim.AdafactorBigVision", "1.0.31", place="timm",
        twin=without_casts, removed="the cast of the momentum to bfloat16",
    ),
    timed=(Timed(2, {"lr": 1e-3}, passes=("g", "gPM"), matrices=True),),
    drawing=Recipe(
        "cyoptim.AdafactorBigVision([p], lr=0.03)",
        "An average of steps that are as long in each coordinate.",
        shape=(2, 1),
    ),
    valley=Valley({"lr": 0.02}, 0.999),
)  # fmt: skip
