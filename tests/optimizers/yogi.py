"""Yogi: algorithm 2 of Zaheer et al. (2018), with Adam's bias correction."""

import numpy as np

from tests.support.bad_options import EPS, MOMENTS
from tests.support.cards import RULE, Card, Options, Quotient, Recipe, Source, Timed, Valley


class Yogi:
    def __init__(
        self, lr=1e-2, betas=(0.9, 0.999), eps=1e-3, initial_accumulator=1e-6, weight_decay=0,
        maximize=False,
    ):  # fmt: skip
        self.__dict__.update(locals())
        self.t, self.m, self.v = {}, {}, {}

    def step(self, params, grads):
        beta1, beta2 = self.betas
        for i, (p, g) in enumerate(zip(params, grads, strict=True)):
            if g is None:
                continue
            first = np.full_like(p, self.initial_accumulator)
            g = -g if self.maximize else g
            if self.weight_decay:
                g = g + self.weight_decay * p
            t = self.t[i] = self.t.get(i, 0) + 1
            m = self.m[i] = beta1 * self.m.get(i, first) + (1 - beta1) * g
            v = self.v.get(i, first)
            v = self.v[i] = v - (1 - beta2) * np.sign(v - g**2) * g**2
            m_hat, v_hat = m / (1 - beta1**t), v / (1 - beta2**t)
            p[...] = p - self.lr * m_hat / (np.sqrt(v_hat) + self.eps)


def gain(options: Options) -> float:
    return 1 - float(options.get("betas", (0.9, 0.999))[1])


CARD = Card(
    "Yogi",
    Yogi,
    traits=RULE,
    variants=(
        {},
        {"lr": 0.05, "betas": (0.8, 0.95), "eps": 1e-6},
        {"weight_decay": 0.1},
        {"initial_accumulator": 0.5, "maximize": True, "weight_decay": 0.1},
        {"initial_accumulator": 0.0},
    ),
    states=("step", "exp_avg", "exp_avg_sq"),
    kept={"exp_avg": "m", "exp_avg_sq": "v"},
    bad=(
        *MOMENTS,
        *EPS,
        (
            {"initial_accumulator": -1e-6},
            ValueError,
            "Invalid initial_accumulator value: -1e-06 (expected >= 0)",
        ),
    ),
    quotient=Quotient(
        gain, ({"initial_accumulator": 0.0}, {"initial_accumulator": 0.0, "betas": (0.9, 0.9999)})
    ),
    source=Source("torch_optimizer.Yogi", "0.3.0", place="torch_optimizer"),
    timed=(Timed(3),),
    drawing=Recipe(
        "cyoptim.Yogi([p], lr=0.1)",
        "Its average of squares falls slowly after the steep start, so that its steps grow slowly.",
    ),
    valley=Valley({"lr": 0.02}),
)
