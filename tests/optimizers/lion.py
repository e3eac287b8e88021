"""Lion: program 1 of Chen et al. (2023)."""

import numpy as np

from tests.support.bad_options import MOMENTS
from tests.support.cards import COMPLEX, RULE, Card, Recipe, Source, Timed, Valley


class Lion:
    def __init__(self, lr=1e-4, betas=(0.9, 0.99), weight_decay=0.0, maximize=False):
        self.lr, self.betas, self.weight_decay, self.maximize = lr, betas, weight_decay, maximize
        self.m = {}

    def step(self, params, grads):
        beta1, beta2 = self.betas
        for i, (p, g) in enumerate(zip(params, grads, strict=True)):
            if g is None:
                continue
            g = -g if self.maximize else g
            m = self.m.get(i, np.zeros_like(p))
            update = np.sign(beta1 * m + (1 - beta1) * g) + self.weight_decay * p
            p[...] = p - self.lr * update
            self.m[i] = beta2 * m + (1 - beta2) * g


CARD = Card(
    "Lion",
    Lion,
    traits=RULE - {COMPLEX},
    variants=({}, {"betas": (0.8, 0.95)}, {"lr": 0.01, "weight_decay": 0.1, "maximize": True}),
    states=("exp_avg",),
    kept={"exp_avg": "m"},
    bad=MOMENTS,
    source=Source("lion_pytorch.Lion", "0.2.5"),
    timed=(Timed(2),),
    drawing=Recipe(
        "cyoptim.Lion([p], lr=0.02)",
        "Both coordinates go exactly `lr` a step; it circles until a schedule takes the rate down.",
    ),
    valley=Valley({"lr": 0.02}, 0.995),
)
