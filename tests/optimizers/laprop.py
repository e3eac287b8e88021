"""LaProp: algorithm 1 of Ziyin et al. (2020), with the rate within the momentum as in timm's ``LaProp``."""

from typing import Any

import numpy as np

from tests.support.bad_options import EPS, MOMENTS
from tests.support.cards import RULE, Card, Options, Quotient, Recipe, Source, Timed, Valley


class LaProp:
    def __init__(
        self, lr=4e-4, betas=(0.9, 0.999), eps=1e-15, weight_decay=0.0, maximize=False
    ):  # fmt: skip
        self.__dict__.update(locals())
        self.m, self.v, self.c1, self.c2 = {}, {}, {}, {}

    def step(self, params, grads):
        beta1, beta2 = self.betas
        for i, (p, g) in enumerate(zip(params, grads, strict=True)):
            if g is None:
                continue
            zeros = np.zeros_like(p)
            g = -g if self.maximize else g
            c1 = self.c1[i] = beta1 * self.c1.get(i, 0.0) + (1 - beta1) * self.lr
            c2 = self.c2[i] = beta2 * self.c2.get(i, 0.0) + (1 - beta2)
            v = self.v[i] = beta2 * self.v.get(i, zeros) + (1 - beta2) * g**2
            u = g / (np.sqrt(v / c2) + self.eps)
            m = self.m[i] = beta1 * self.m.get(i, zeros) + (1 - beta1) * self.lr * u
            p[...] = p - (self.lr / c1 if c1 else 0.0) * m
            p[...] = p - self.lr * self.weight_decay * p


def gain(options: Options) -> float:
    return 1 - float(options.get("betas", (0.9, 0.999))[1])


def in_double(cls: Any) -> Any:
    """timm's class with its numbers in float64."""
    import torch

    class LaProp(cls):
        def step(self, closure: Any = None) -> Any:
            before = torch.get_default_dtype()
            torch.set_default_dtype(torch.float64)
            try:
                return super().step(closure)
            finally:
                torch.set_default_dtype(before)

        def load_state_dict(self, state_dict: Any) -> None:
            before = torch.get_default_dtype()
            torch.set_default_dtype(torch.float64)
            try:
                super().load_state_dict(state_dict)
            finally:
                torch.set_default_dtype(before)

    return LaProp


# Those of timm's class, which has no `maximize`.
SHARED: tuple[Options, ...] = (
    {},
    {"lr": 0.01, "betas": (0.8, 0.95), "eps": 1e-8},
    {"lr": 0.01, "weight_decay": 0.1},
    {"lr": 0.0},
)

CARD = Card(
    "LaProp",
    LaProp,
    traits=RULE,
    variants=(
        *SHARED,
        {"lr": 0.01, "weight_decay": 0.1, "betas": (0.0, 0.9), "maximize": True},
    ),
    states=("step", "exp_avg", "exp_avg_sq", "exp_avg_lr_1", "exp_avg_lr_2"),
    state_shapes={"exp_avg_lr_1": (), "exp_avg_lr_2": ()},
    doubles=("exp_avg_lr_1", "exp_avg_lr_2"),
    kept={"exp_avg": "m", "exp_avg_sq": "v"},
    bad=(*MOMENTS, *EPS),
    quotient=Quotient(gain, ({}, {"betas": (0.9, 0.99999)})),
    source=Source(
        "timm.optim.LaProp",
        "1.0.31",
        place="timm",
        twin=in_double,
        removed="its second bias correction is in float32",
        variants=(
            *SHARED,
            {"caution": True},
            {"lr": 0.01, "betas": (0.8, 0.95), "weight_decay": 0.1, "caution": True},
        ),
    ),
    timed=(Timed(3),),
    drawing=Recipe(
        "cyoptim.LaProp([p], lr=0.05)",
        "Each gradient is divided before it is averaged, so that no step is longer than `lr`.",
    ),
    valley=Valley({"lr": 0.02}, 0.9995),
)
