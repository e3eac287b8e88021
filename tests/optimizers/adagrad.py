"""Adagrad: figure 1 of Duchi, Hazan & Singer (2011) with a diagonal matrix."""

import numpy as np

from tests.support import draws
from tests.support.bad_options import COMMON_OF_TORCH, DECAY, DECAY_NAN, EPS, FUSED_AND_OTHERS, RATE
from tests.support.cards import FUSED, RULE, SPARSE, Card, Quotient, Recipe, Timed, Valley


class Adagrad:
    def __init__(
        self,
        lr=1e-2,
        lr_decay=0,
        weight_decay=0,
        initial_accumulator_value=0,
        eps=1e-10,
        maximize=False,
    ):
        self.lr, self.lr_decay, self.weight_decay = lr, lr_decay, weight_decay
        self.initial, self.eps, self.maximize = initial_accumulator_value, eps, maximize
        self.t, self.s = {}, {}

    def step(self, params, grads):
        for i, (p, g) in enumerate(zip(params, grads, strict=True)):
            if g is None:
                continue
            g = -g if self.maximize else g
            t = self.t[i] = self.t.get(i, 0) + 1
            if self.weight_decay:
                g = g + self.weight_decay * p
            self.s[i] = self.s.get(i, np.full_like(p, self.initial)) + g**2
            lr = self.lr / (1 + (t - 1) * self.lr_decay)
            p[...] = p - lr * g / (np.sqrt(self.s[i]) + self.eps)


def drawn(rng: draws.Rng) -> draws.Options:
    return {
        "lr_decay": float(draws.pick(rng, 0, rng.random(), 10.0)),
        "initial_accumulator_value": float(draws.pick(rng, 0, 0.1, 3.0)),
        "eps": draws.eps(rng), "weight_decay": draws.decay(rng),
    }  # fmt: skip


CARD = Card(
    "Adagrad",
    Adagrad,
    traits=RULE | {SPARSE, FUSED},
    torch="Adagrad",
    variants=(
        {},
        {"lr": 0.1, "lr_decay": 0.05},
        {"weight_decay": 0.1},
        {"weight_decay": 0.1, "maximize": True},
        {"initial_accumulator_value": 0.5, "eps": 1e-6},
    ),
    sparse_variants=(
        {"lr": 0.1},
        {"lr": 0.1, "lr_decay": 0.1, "initial_accumulator_value": 0.5, "maximize": True},
    ),
    states=("step", "sum"),
    kept={"sum": "s"},
    bad_as_torch=(
        *RATE,
        *DECAY,
        *EPS,
        *FUSED_AND_OTHERS,
        ({"lr_decay": -0.1}, ValueError, "Invalid lr_decay value: -0.1"),
        ({"lr_decay": -0.5}, ValueError, "Invalid lr_decay value: -0.5"),
        (
            {"initial_accumulator_value": -1},
            ValueError,
            "Invalid initial_accumulator_value value: -1",
        ),
    ),
    bad=(*COMMON_OF_TORCH, *DECAY_NAN),
    quotient=Quotient(lambda o: 1.0),
    draw=drawn,
    timed=(Timed(2),),
    drawing=Recipe(
        "cyoptim.Adagrad([p], lr=0.5)",
        "Steps shrink as squared gradients add up, and never grow again.",
    ),
    valley=Valley({"lr": 0.5}),
)
