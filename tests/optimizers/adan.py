"""Adan: algorithm 1 of Xie et al. (2022), with the clipping and the decay of the authors' code."""

import numpy as np

from tests.support import draws
from tests.support.bad_options import EPS, MOMENTS_OF_THREE
from tests.support.cards import FUSED, RULE, Card, Options, Quotient, Recipe, Source, Timed, Valley


class Adan:
    def __init__(
        self, lr=1e-3, betas=(0.98, 0.92, 0.99), eps=1e-8, weight_decay=0.0, max_grad_norm=0.0,
        no_prox=False, maximize=False,
    ):  # fmt: skip
        self.__dict__.update(locals())
        self.t, self.m, self.diff, self.v, self.before = {}, {}, {}, {}, {}

    def step(self, params, grads):
        beta1, beta2, beta3 = self.betas
        clip = 1.0
        if self.max_grad_norm:
            norm = np.sqrt(sum(np.sum(g * g) for g in grads if g is not None))
            clip = np.minimum(1.0, self.max_grad_norm / (norm + self.eps))
        for i, (p, g) in enumerate(zip(params, grads, strict=True)):
            if g is None:
                continue
            zeros = np.zeros_like(p)
            g = clip * (-g if self.maximize else g)
            t = self.t[i] = self.t.get(i, 0) + 1
            change = g + self.before[i] if t > 1 else zeros
            self.before[i] = -g
            m = self.m[i] = beta1 * self.m.get(i, zeros) + (1 - beta1) * g
            diff = self.diff[i] = beta2 * self.diff.get(i, zeros) + (1 - beta2) * change
            v = self.v.get(i, zeros)
            v = self.v[i] = beta3 * v + (1 - beta3) * (g + beta2 * change) ** 2
            u = m / (1 - beta1**t) + beta2 * diff / (1 - beta2**t)
            u = self.lr * u / (np.sqrt(v / (1 - beta3**t)) + self.eps)
            decay = self.lr * self.weight_decay
            p[...] = p * (1 - decay) - u if self.no_prox else (p - u) / (1 + decay)


def with_a_wide_norm(cls):
    """The authors' class, which sums up squares in float32."""

    class Wide(cls):
        def step(self):
            import torch

            torch.set_default_dtype(torch.float64)
            try:
                super().step()
            finally:
                torch.set_default_dtype(torch.float32)

    return Wide


def gain(options: Options) -> float:
    return 1 - float(options.get("betas", (0.98, 0.92, 0.99))[2])


def draw(rng: np.random.Generator) -> Options:
    options = draws.averages(rng)
    first, last = options["betas"]
    betas = (first, draws.beta(rng) if last >= 0.5 else first, last)
    return {**options, "betas": betas, "no_prox": draws.chance(rng, 0.4)}


CARD = Card(
    "Adan",
    Adan,
    traits=RULE | {FUSED},
    variants=(
        {},
        {"lr": 0.05, "betas": (0.9, 0.8, 0.95), "eps": 1e-3, "weight_decay": 0.1},
        {"lr": 0.01, "weight_decay": 0.1, "no_prox": True},
        {"maximize": True, "betas": (0.0, 0.0, 0.9)},
        {"max_grad_norm": 1.0, "weight_decay": 0.02},
    ),
    states=("step", "exp_avg", "exp_avg_diff", "exp_avg_sq", "neg_pre_grad"),
    kept={"exp_avg": "m", "exp_avg_diff": "diff", "exp_avg_sq": "v", "neg_pre_grad": "before"},
    joined_by="max_grad_norm",
    bad=(
        *MOMENTS_OF_THREE,
        *EPS,
        ({"max_grad_norm": -1.0}, ValueError, "Invalid max_grad_norm value: -1.0 (expected >= 0)"),
    ),
    quotient=Quotient(gain, ({}, {"betas": (0.9, 0.9, 0.999)}, {"betas": (0.0, 0.0, 0.0)})),
    draw=draw,
    source=Source(
        "Adan",
        "2c65bea",
        counts_together=True,
        place="sail-sg/Adan",
        twin=with_a_wide_norm,
        removed="the float32 norm of clipping",
    ),
    timed=(Timed(5),),
    drawing=Recipe(
        "cyoptim.Adan([p], lr=0.05)",
        "The differences of gradients tell a bend of the valley a step before the momentum does.",
    ),
    valley=Valley({"lr": 0.02}),
)
