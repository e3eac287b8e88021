"""Schedule-Free RAdam: Defazio et al. (2024), with the weights of their code."""

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


class RAdamScheduleFree:
    def __init__(
        self, lr=0.0025, betas=(0.9, 0.999), eps=1e-8, weight_decay=0, r=0.0, weight_lr_power=2.0,
        foreach=True, silent_sgd_phase=True, maximize=False,
    ):  # fmt: skip
        self.__dict__.update(locals())
        self.average = Average(0, r, weight_lr_power)
        self.t, self.z, self.v = {}, {}, {}

    def rectification(self, t):
        """What multiplies the rate, and whether squares divide."""
        beta2 = self.betas[1]
        rho_inf = 2 / (1 - beta2) - 1
        rho = rho_inf - 2 * t * beta2**t / (1 - beta2**t)
        if rho <= 4:
            return (0.0 if self.silent_sgd_phase else 1.0), False
        square = (rho - 4) * (rho - 2) * rho_inf / ((rho_inf - 4) * (rho_inf - 2) * rho)
        return np.sqrt(square), True

    def step(self, params, grads):
        beta1, beta2 = self.betas
        _, c = self.average.step(self.lr, self.rectification(self.average.t + 1)[0])
        for i, (y, g) in enumerate(zip(params, grads, strict=True)):
            if g is None:
                continue
            g = -g if self.maximize else g
            t = self.t[i] = self.t.get(i, 0) + 1
            z = self.z.get(i, y.copy())
            x = (y - (1 - beta1) * z) / beta1
            v = self.v[i] = beta2 * self.v.get(i, np.zeros_like(y)) + (1 - beta2) * g**2
            rect, divides = self.rectification(t)
            d = g / (np.sqrt(v / (1 - beta2**t)) + self.eps) if divides else g
            d = d + self.weight_decay * y
            z = self.z[i] = z - self.lr * rect * d
            x = (1 - c) * x + c * z
            y[...] = (1 - beta1) * z + beta1 * x


CARD = Card(
    "RAdamScheduleFree",
    RAdamScheduleFree,
    traits=RULE - {KERNEL} | {MODES},
    adapted=trained,
    variants=(
        {"silent_sgd_phase": False},
        {},
        {"lr": 0.05, "betas": (0.6, 0.95), "eps": 1e-6, "weight_decay": 0.1},
        {"lr": 0.1, "r": 1.0, "weight_lr_power": 1.0, "foreach": False},
        {"lr": 0.02, "silent_sgd_phase": False, "maximize": True, "weight_decay": 0.1},
        {"lr": 0.0},
    ),
    states=("step", "z", "exp_avg_sq"),
    kept={"z": "z", "exp_avg_sq": "v"},
    waits=4,
    averages=("z",),
    bad=(*MOMENTS, *EPS, *COMMON, *BAD_NUMBERS, *NO_AVERAGE),
    source=Source(
        "schedulefree.RAdamScheduleFree",
        "1.4.1",
        counts_together=True,
        place="schedulefree",
        twin=in_training,
        removed=REMOVED,
    ),
    quotient=Quotient(
        lambda options: 1 - float(options.get("betas", (0.9, 0.999))[1]),
        ({}, {"betas": (0.9, 0.99999)}, {"maximize": True}),
        steps_before=4,
    ),
    timed=(Timed(3),),
    drawing=Recipe(
        "cyoptim.RAdamScheduleFree([p], lr=0.5)",
        "Gradients are taken on the line; the average, dashed, is the result.",
    ),
    valley=Valley({"lr": 0.02, "betas": (0.98, 0.999), "r": 2.0}),
)
