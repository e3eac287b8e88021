"""Grams: algorithm 2 of Cao et al. (2024), with eps where the authors' code has it."""

import numpy as np

from tests.support.bad_options import EPS, MOMENTS
from tests.support.cards import (
    COMPLEX,
    RULE,
    Card,
    Options,
    Quotient,
    Recipe,
    Source,
    Timed,
    Valley,
)


class Grams:
    def __init__(
        self, lr=1e-3, betas=(0.9, 0.999), eps=1e-6, weight_decay=0.0, correct_bias=True,
        maximize=False,
    ):  # fmt: skip
        self.__dict__.update(locals())
        self.t, self.m, self.v = {}, {}, {}

    def step(self, params, grads):
        beta1, beta2 = self.betas
        for i, (p, g) in enumerate(zip(params, grads, strict=True)):
            if g is None:
                continue
            zeros = np.zeros_like(p)
            g = -g if self.maximize else g
            t = self.t[i] = self.t.get(i, 0) + 1
            p[...] = p - self.lr * self.weight_decay * p
            m = self.m[i] = beta1 * self.m.get(i, zeros) + (1 - beta1) * g
            v = self.v[i] = beta2 * self.v.get(i, zeros) + (1 - beta2) * g**2
            size = self.lr
            if self.correct_bias:
                size *= np.sqrt(1 - beta2**t) / (1 - beta1**t)
            p[...] = p - size * np.sign(g) * np.abs(m) / (np.sqrt(v) + self.eps)


def gain(options: Options) -> float:
    return 1 - float(options.get("betas", (0.9, 0.999))[1])


CARD = Card(
    "Grams",
    Grams,
    traits=RULE - {COMPLEX},
    variants=(
        {},
        {"lr": 0.01, "betas": (0.8, 0.95), "eps": 1e-8},
        {"lr": 0.01, "weight_decay": 0.1},
        {"correct_bias": False, "weight_decay": 0.1, "maximize": True},
    ),
    states=("step", "exp_avg", "exp_avg_sq"),
    kept={"exp_avg": "m", "exp_avg_sq": "v"},
    bad=(*MOMENTS, *EPS),
    quotient=Quotient(gain, ({}, {"betas": (0.9, 0.99999)})),
    source=Source("grams.Grams", "0.0.2", place="grams-pytorch"),
    timed=(Timed(3),),
    drawing=Recipe(
        "cyoptim.Grams([p], lr=0.05)",
        "Steps are as long as Adam's, but never against the gradient: it follows the bend.",
    ),
    valley=Valley({"lr": 0.02}),
)
