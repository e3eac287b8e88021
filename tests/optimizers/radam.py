"""RAdam: algorithm 2 of Liu et al. (2020)."""

import math

import numpy as np

from tests.optimizers.adam import gain
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


class RAdam:
    def __init__(self, lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0,
                 decoupled_weight_decay=False, maximize=False):  # fmt: skip
        self.lr, self.betas, self.eps = lr, betas, eps
        self.weight_decay = weight_decay
        self.decoupled, self.maximize = decoupled_weight_decay, maximize
        self.t, self.m, self.v = {}, {}, {}

    def step(self, params, grads):
        beta1, beta2 = self.betas
        rho_inf = 2 / (1 - beta2) - 1
        for i, (p, g) in enumerate(zip(params, grads, strict=True)):
            if g is None:
                continue
            zeros = np.zeros_like(p)
            g = -g if self.maximize else g
            if self.weight_decay and self.decoupled:
                p[...] = p - self.lr * self.weight_decay * p
            elif self.weight_decay:
                g = g + self.weight_decay * p
            t = self.t[i] = self.t.get(i, 0) + 1
            m = self.m[i] = beta1 * self.m.get(i, zeros) + (1 - beta1) * g
            v = self.v[i] = beta2 * self.v.get(i, zeros) + (1 - beta2) * g**2
            m_hat = m / (1 - beta1**t)
            rho = rho_inf - 2 * t * beta2**t / (1 - beta2**t)
            if rho > 5:
                l_t = math.sqrt(1 - beta2**t) / (np.sqrt(v) + self.eps)
                r_t = math.sqrt(
                    (rho - 4) * (rho - 2) * rho_inf / ((rho_inf - 4) * (rho_inf - 2) * rho)
                )
                p[...] = p - self.lr * m_hat * r_t * l_t
            else:
                p[...] = p - self.lr * m_hat


CARD = Card(
    "RAdam",
    RAdam,
    traits=RULE,
    torch="RAdam",
    variants=(
        {},
        {"lr": 0.02, "betas": (0.8, 0.95), "eps": 1e-6},
        {"weight_decay": 0.1},
        {"weight_decay": 0.1, "decoupled_weight_decay": True},
        {"weight_decay": 0.1, "maximize": True},
    ),
    states=("step", "exp_avg", "exp_avg_sq"),
    kept={"exp_avg": "m", "exp_avg_sq": "v"},
    bad_as_torch=(*RATE, *DECAY, *EPS, *BETAS),
    bad=(*COMMON_OF_TORCH, *DECAY_NAN, *CAPTURABLE, *BETAS_NO_PAIR),
    quotient=Quotient(gain, ({}, {"betas": (0.9, 0.99999)}), steps_before=5),
    draw=lambda rng: {**draws.averages(rng), **draws.decoupled(rng)},
    timed=(Timed(3),),
    drawing=Recipe(
        "cyoptim.RAdam([p], lr=0.03)",
        "The first steps are plain momentum's, until enough gradients are seen to divide by.",
    ),
    valley=Valley({"lr": 1e-3}),
)
