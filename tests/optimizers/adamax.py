"""Adamax: algorithm 2 of Kingma & Ba (2015), with torch's epsilon beside the gradient."""

import numpy as np

from tests.support import draws
from tests.support.bad_options import (
    BETAS,
    BETAS_NO_PAIR,
    CAPTURABLE,
    COMMON_OF_TORCH,
    DECAY,
    DECAY_NAN,
    EPS,
    RATE,
)
from tests.support.cards import RULE, Card, Quotient, Recipe, Timed, Valley


class Adamax:
    def __init__(self, lr=2e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0, maximize=False):
        self.lr, self.betas, self.eps = lr, betas, eps
        self.weight_decay, self.maximize = weight_decay, maximize
        self.t, self.m, self.u = {}, {}, {}

    def step(self, params, grads):
        beta1, beta2 = self.betas
        for i, (p, g) in enumerate(zip(params, grads, strict=True)):
            if g is None:
                continue
            zeros = np.zeros_like(p)
            g = -g if self.maximize else g
            if self.weight_decay:
                g = g + self.weight_decay * p
            t = self.t[i] = self.t.get(i, 0) + 1
            self.m[i] = beta1 * self.m.get(i, zeros) + (1 - beta1) * g
            self.u[i] = np.maximum(beta2 * self.u.get(i, zeros), np.abs(g) + self.eps)
            p[...] = p - self.lr / (1 - beta1**t) * self.m[i] / self.u[i]


CARD = Card(
    "Adamax",
    Adamax,
    traits=RULE,
    torch="Adamax",
    variants=(
        {},
        {"lr": 0.05, "betas": (0.8, 0.95), "eps": 1e-4},
        {"weight_decay": 0.1},
        {"weight_decay": 0.1, "maximize": True},
    ),
    states=("step", "exp_avg", "exp_inf"),
    kept={"exp_avg": "m", "exp_inf": "u"},
    bad_as_torch=(*RATE, *DECAY, *EPS, *BETAS),
    bad=(*COMMON_OF_TORCH, *DECAY_NAN, *CAPTURABLE, *BETAS_NO_PAIR),
    quotient=Quotient(lambda o: 1.0, squared=True),
    draw=draws.averages,
    timed=(Timed(3),),
    drawing=Recipe(
        "cyoptim.Adamax([p], lr=0.2)",
        "The largest gradient seen lately sets the pace: a steep wall is remembered longer.",
    ),
    valley=Valley({"lr": 0.02}),
)
