"""Schedule-Free AdamW: Defazio et al. (2024), with the weights of their code."""

import numpy as np

from tests.support.bad_options import COMMON, EPS, MOMENTS
from tests.support.cards import KERNEL, MODES, RULE, Card, Quotient, Recipe, Source, Timed, Valley
from tests.support.schedule_free import (
    BAD_NUMBERS,
    NO_AVERAGE,
    REMOVED,
    Average,
    in_training,
    trained,
)


class AdamWScheduleFree:
    def __init__(
        self, lr=0.0025, betas=(0.9, 0.999), eps=1e-8, weight_decay=0, warmup_steps=0, r=0.0,
        weight_lr_power=2.0, foreach=True, maximize=False,
    ):  # fmt: skip
        self.__dict__.update(locals())
        self.average = Average(warmup_steps, r, weight_lr_power)
        self.t, self.z, self.v = {}, {}, {}

    def step(self, params, grads):
        beta1, beta2 = self.betas
        lr, c = self.average.step(self.lr)
        for i, (y, g) in enumerate(zip(params, grads, strict=True)):
            if g is None:
                continue
            g = -g if self.maximize else g
            t = self.t[i] = self.t.get(i, 0) + 1
            z = self.z.get(i, y.copy())
            x = (y - (1 - beta1) * z) / beta1
            v = self.v[i] = beta2 * self.v.get(i, np.zeros_like(y)) + (1 - beta2) * g**2
            d = g / (np.sqrt(v / (1 - beta2**t)) + self.eps) + self.weight_decay * y
            z = self.z[i] = z - lr * d
            x = (1 - c) * x + c * z
            y[...] = (1 - beta1) * z + beta1 * x


CARD = Card(
    "AdamWScheduleFree",
    AdamWScheduleFree,
    traits=RULE - {KERNEL} | {MODES},
    adapted=trained,
    variants=(
        {},
        {"lr": 0.05, "betas": (0.6, 0.95), "eps": 1e-6, "weight_decay": 0.1},
        {"lr": 0.1, "warmup_steps": 5, "r": 1.0, "weight_lr_power": 1.0, "foreach": False},
        {"lr": 0.02, "warmup_steps": 30, "maximize": True},
        {"lr": 0.0},
    ),
    states=("step", "z", "exp_avg_sq"),
    kept={"z": "z", "exp_avg_sq": "v"},
    averages=("z",),
    bad=(
        *MOMENTS,
        *EPS,
        *COMMON,
        *BAD_NUMBERS,
        *NO_AVERAGE,
        ({"warmup_steps": -1}, ValueError, "Invalid warmup_steps value: -1"),
    ),
    source=Source(
        "schedulefree.AdamWScheduleFree",
        "1.4.1",
        counts_together=True,
        place="schedulefree",
        twin=in_training,
        removed=REMOVED,
    ),
    quotient=Quotient(
        lambda options: 1 - float(options.get("betas", (0.9, 0.999))[1]),
        ({}, {"betas": (0.9, 0.99999)}, {"maximize": True}),
    ),
    timed=(Timed(3),),
    drawing=Recipe(
        "cyoptim.AdamWScheduleFree([p], lr=0.3)",
        "Gradients are taken on the line; the average, dashed, is the result.",
    ),
    valley=Valley({"lr": 0.02, "betas": (0.98, 0.999), "r": 2.0}),
)
