"""NAdam: algorithm 2 of Dozat (2016), with the schedule of its section 3."""

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


class NAdam:
    def __init__(self, lr=2e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0, momentum_decay=4e-3,
                 decoupled_weight_decay=False, maximize=False):  # fmt: skip
        self.lr, self.betas, self.eps = lr, betas, eps
        self.weight_decay, self.psi = weight_decay, momentum_decay
        self.decoupled, self.maximize = decoupled_weight_decay, maximize
        self.t, self.m, self.v, self.product = {}, {}, {}, {}

    def mu(self, t):
        return self.betas[0] * (1 - 0.5 * 0.96 ** (t * self.psi))

    def step(self, params, grads):
        beta1, beta2 = self.betas
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
            # The product is kept in float32, as torch does.
            self.product[i] = self.product.get(i, np.float32(1)) * np.float32(self.mu(t))
            product = float(self.product[i])
            m = self.m[i] = beta1 * self.m.get(i, zeros) + (1 - beta1) * g
            v = self.v[i] = beta2 * self.v.get(i, zeros) + (1 - beta2) * g**2
            m_hat = (
                self.mu(t + 1) * m / (1 - product * self.mu(t + 1))
                + (1 - self.mu(t)) * g / (1 - product)
            )  # fmt: skip
            p[...] = p - self.lr * m_hat / (np.sqrt(v / (1 - beta2**t)) + self.eps)


def drawn(rng: draws.Rng) -> draws.Options:
    return {
        **draws.averages(rng),
        **draws.decoupled(rng),
        "momentum_decay": draws.power(rng, -3, 1),
    }


CARD = Card(
    "NAdam",
    NAdam,
    traits=RULE,
    torch="NAdam",
    variants=(
        {},
        {"lr": 0.02, "betas": (0.8, 0.95), "momentum_decay": 0.05},
        {"weight_decay": 0.1},
        {"weight_decay": 0.1, "decoupled_weight_decay": True},
        {"weight_decay": 0.1, "maximize": True},
    ),
    states=("step", "mu_product", "exp_avg", "exp_avg_sq"),
    numbers=("mu_product",),
    kept={"exp_avg": "m", "exp_avg_sq": "v"},
    bad_as_torch=(
        *RATE,
        *DECAY,
        *EPS,
        *BETAS,
        ({"momentum_decay": -0.2}, ValueError, "Invalid momentum_decay value: -0.2"),
    ),
    bad=(*COMMON_OF_TORCH, *DECAY_NAN, *CAPTURABLE, *BETAS_NO_PAIR),
    quotient=Quotient(gain, ({}, {"betas": (0.9, 0.99999)})),
    draw=drawn,
    timed=(Timed(3),),
    drawing=Recipe(
        "cyoptim.NAdam([p], lr=0.05)",
        "Adam that looks ahead along its momentum: less swing.",
    ),
    valley=Valley({"lr": 0.02}, 0.9995),
)
