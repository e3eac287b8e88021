"""Simplified AdEMAMix: algorithm 2 of Morwani et al. (2025), with the warm-up of the authors' code."""

import numpy as np

from tests.optimizers.ademamix import warmed
from tests.support import draws
from tests.support.bad_options import EPS, MOMENTS
from tests.support.cards import RULE, Card, Options, Quotient, Recipe, Source, Timed, Valley


class SimAdEMAMix:
    def __init__(
        self, lr=1e-4, betas=(0.99, 0.95), alpha=0.0, beta1_warmup=None, eps=1e-8, weight_decay=0.0,
        min_beta1=0.9, bias_correction1=False, bias_correction2=True, maximize=False,
    ):  # fmt: skip
        self.__dict__.update(locals())
        self.t, self.m, self.v, self.weights = {}, {}, {}, {}

    def step(self, params, grads):
        beta2 = self.betas[1]
        for i, (p, g) in enumerate(zip(params, grads, strict=True)):
            if g is None:
                continue
            zeros = np.zeros_like(p)
            g = -g if self.maximize else g
            t = self.t[i] = self.t.get(i, 0) + 1
            b = warmed(self.betas[0], self.min_beta1, t, self.beta1_warmup)
            m = self.m[i] = b * self.m.get(i, zeros) + g
            v = self.v[i] = beta2 * self.v.get(i, zeros) + (1 - beta2) * g**2
            first, second = self.weights.get(i, (0.0, 0.0))
            first, second = self.weights[i] = b * first + 1, beta2 * second + (1 - beta2)
            u = (self.alpha * g + m) / (np.sqrt(v) + self.eps * np.sqrt(second))
            u = u / first if self.bias_correction1 else u
            u = u * np.sqrt(second) if self.bias_correction2 else u
            p[...] = p - self.lr * (u + self.weight_decay * p)


def gain(options: Options) -> float:
    return 1 - float(options.get("betas", (0.99, 0.95))[1])


def draw(rng: np.random.Generator) -> Options:
    warmup = draws.pick(rng, None, 1, 7, 100)
    return {
        **draws.averages(rng),
        "alpha": draws.pick(rng, 0.0, 2.0),
        "beta1_warmup": warmup,
        "min_beta1": draws.pick(rng, 0.0, 0.9),
        "bias_correction1": warmup is None and draws.chance(rng, 0.5),
        "bias_correction2": draws.chance(rng, 0.5),
    }


CARD = Card(
    "SimAdEMAMix",
    SimAdEMAMix,
    traits=RULE,
    variants=(
        {},
        {"lr": 0.01, "betas": (0.8, 0.9), "alpha": 2.0, "eps": 1e-6, "weight_decay": 0.1},
        {"beta1_warmup": 40},
        {"beta1_warmup": 1000, "min_beta1": 0.0, "alpha": 1.0, "maximize": True},
        {"lr": 0.01, "bias_correction1": True},
        {"bias_correction2": False, "eps": 1e-3},
    ),
    states=("step", "exp_avg", "exp_avg_sq"),
    kept={"exp_avg": "m", "exp_avg_sq": "v"},
    bad=(
        *MOMENTS,
        *EPS,
        ({"alpha": -1.0}, ValueError, "Invalid alpha value: -1.0 (expected >= 0)"),
        ({"min_beta1": 1.5}, ValueError, "Invalid min_beta1 value: 1.5 (expected 0 to 1)"),
        ({"beta1_warmup": 0}, ValueError, "Invalid beta1_warmup value: 0 (expected > 0)"),
        (
            {"beta1_warmup": np.inf},
            ValueError,
            "Invalid beta1_warmup value: inf (expected a finite",
        ),
        (
            {"beta1_warmup": 9, "bias_correction1": True},
            ValueError,
            "bias_correction1=True does not go together with beta1_warmup",
        ),
    ),
    quotient=Quotient(gain, ({}, {"betas": (0.9, 0.999)}, {"betas": (0.0, 0.0)})),
    draw=draw,
    source=Source("SimAdEMAMix", "dba14d0", place="DepenM/Simplified-AdEMAMix"),
    timed=(Timed(3),),
    drawing=Recipe(
        "cyoptim.SimAdEMAMix([p], lr=0.01, betas=(0.9, 0.95))",
        "Heavy: its momentum is the sum of ten gradients, not their mean.",
    ),
    valley=Valley({"lr": 0.002, "betas": (0.9, 0.999)}),
)
