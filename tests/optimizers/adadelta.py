"""Adadelta: algorithm 1 of Zeiler (2012)."""

import numpy as np

from tests.support import draws
from tests.support.bad_options import CAPTURABLE, COMMON_OF_TORCH, DECAY, DECAY_NAN, EPS, NAN, RATE
from tests.support.cards import RULE, Card, Quotient, Recipe, Timed, Valley


class Adadelta:
    def __init__(self, lr=1.0, rho=0.9, eps=1e-6, weight_decay=0, maximize=False):
        self.lr, self.rho, self.eps = lr, rho, eps
        self.weight_decay, self.maximize = weight_decay, maximize
        self.squares, self.updates = {}, {}

    def step(self, params, grads):
        rho, eps = self.rho, self.eps
        for i, (p, g) in enumerate(zip(params, grads, strict=True)):
            if g is None:
                continue
            zeros = np.zeros_like(p)
            g = -g if self.maximize else g
            if self.weight_decay:
                g = g + self.weight_decay * p
            self.squares[i] = rho * self.squares.get(i, zeros) + (1 - rho) * g**2
            delta = np.sqrt(self.updates.get(i, zeros) + eps) / np.sqrt(self.squares[i] + eps) * g
            self.updates[i] = rho * self.updates.get(i, zeros) + (1 - rho) * delta**2
            p[...] = p - self.lr * delta


def drawn(rng: draws.Rng) -> draws.Options:
    rho = float(draws.pick(rng, draws.beta(rng), 1.0))
    return {"rho": rho, "eps": draws.eps(rng), "weight_decay": draws.decay(rng, rho)}


CARD = Card(
    "Adadelta",
    Adadelta,
    traits=RULE,
    torch="Adadelta",
    variants=(
        {},
        {"lr": 0.5, "rho": 0.7, "eps": 1e-4},
        {"weight_decay": 0.1},
        {"weight_decay": 0.1, "maximize": True},
    ),
    states=("step", "square_avg", "acc_delta"),
    kept={"square_avg": "squares", "acc_delta": "updates"},
    bad_as_torch=(
        *RATE,
        *DECAY,
        *EPS,
        ({"rho": 1.1}, ValueError, "Invalid rho value: 1.1"),
        ({"rho": -0.1}, ValueError, "Invalid rho value: -0.1"),
    ),
    bad=(
        *COMMON_OF_TORCH,
        *DECAY_NAN,
        *CAPTURABLE,
        ({"rho": NAN}, ValueError, "Invalid rho value: nan"),
        ({"rho": None}, TypeError, "rho must be a number, got NoneType: None"),
    ),
    quotient=Quotient(
        lambda o: 1 - o.get("rho", 0.9), ({}, {"rho": 0.999}), squared=True, steps_in_eps=True
    ),
    draw=drawn,
    timed=(Timed(3),),
    drawing=Recipe(
        "cyoptim.Adadelta([p], lr=10)",
        "No learning rate has to be found, but the first steps are tiny: ten times the default.",
    ),
    valley=Valley({"lr": 10.0}, 0.9995),
)
