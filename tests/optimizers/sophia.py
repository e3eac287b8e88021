"""Sophia-G: algorithm 3 of Liu et al. (2023), with the Gauss-Newton-Bartlett estimate."""

import inspect

import numpy as np

from tests.support.bad_options import CAPTURABLE, MOMENTS
from tests.support.cards import RULE, Card, Recipe, Source, Timed, Valley


class SophiaG:
    def __init__(
        self, lr=1e-4, betas=(0.965, 0.99), rho=0.04, weight_decay=0.1, bs=5120, maximize=False
    ):
        self.__dict__.update(locals())
        self.m, self.h = {}, {}

    def update_hessian(self, params, grads):
        beta2 = self.betas[1]
        for i, (p, g) in enumerate(zip(params, grads, strict=True)):
            if g is not None:
                self.h[i] = beta2 * self.h.get(i, np.zeros_like(p)) + (1 - beta2) * g**2

    def step(self, params, grads):
        beta1 = self.betas[0]
        for i, (p, g) in enumerate(zip(params, grads, strict=True)):
            if g is None:
                continue
            g = -g if self.maximize else g
            h = self.h.setdefault(i, np.zeros_like(p))
            m = self.m[i] = beta1 * self.m.get(i, np.zeros_like(p)) + (1 - beta1) * g
            u = np.clip(m / (self.rho * self.bs * h + 1e-15), -1, 1)
            p[...] = (1 - self.lr * self.weight_decay) * p - self.lr * u


def with_bs(cls):
    """The authors' class with `bs` as an option, rather than an argument of each step."""

    class Sized(cls):
        def __init__(self, params, bs=5120, **options):
            super().__init__(params, **options)
            self.bs = bs

        def step(self):
            super().step(bs=self.bs)

    Sized.__init__.__signature__ = inspect.signature(
        lambda self, params, lr, betas, rho, weight_decay, bs, maximize: None
    )
    return Sized


CARD = Card(
    "SophiaG",
    SophiaG,
    traits=RULE,
    variants=(
        {"lr": 0.01, "bs": 2},
        {},
        {"lr": 0.01, "betas": (0.8, 0.9), "rho": 0.5, "bs": 1, "weight_decay": 0.0},
        {"lr": 0.01, "bs": 10, "maximize": True},
        {"lr": 0.01, "rho": 0.0},
    ),
    states=("step", "exp_avg", "hessian"),
    kept={"exp_avg": "m", "hessian": "h"},
    also="update_hessian",
    bad=(
        *MOMENTS,
        *CAPTURABLE,
        ({"rho": -0.1}, ValueError, "Invalid rho value: -0.1 (expected >= 0)"),
        ({"bs": 0}, ValueError, "Invalid bs value: 0 (expected > 0)"),
    ),
    source=Source(
        "SophiaG", "a7e1572", place="Liuhong99/Sophia", twin=with_bs, removed="`bs` of `step`"
    ),
    timed=(Timed(2, passes=("ghPM",)),),
    drawing=Recipe(
        "cyoptim.SophiaG([p], lr=0.02, weight_decay=0.0)",
        "Without an estimate of the Hessian: `lr` a step, along the sign of the momentum.",
    ),
    valley=Valley({"lr": 0.02, "weight_decay": 0.0}, 0.995),
)
