"""AdEMAMix: algorithm 1 of Pagliardini et al. (2024), with the warm-ups of its appendix."""

import numpy as np

from tests.support import draws
from tests.support.bad_options import EPS, MOMENTS_OF_THREE
from tests.support.cards import RULE, Card, Options, Quotient, Recipe, Source, Timed, Valley


def half_life(beta):
    """In steps, less one."""
    return np.log(0.5) / np.log(beta + 1e-8) - 1


def warmed(beta, first, step, warmup):
    if warmup is None or step >= warmup:
        return beta
    a = step / warmup
    return 0.5 ** (1 / (1 + (1 - a) * half_life(first) + a * half_life(beta)))


class AdEMAMix:
    def __init__(
        self, lr=1e-3, betas=(0.9, 0.999, 0.9999), alpha=2.0, beta3_warmup=None, alpha_warmup=None,
        eps=1e-8, weight_decay=0, maximize=False,
    ):  # fmt: skip
        self.__dict__.update(locals())
        self.t, self.m, self.slow, self.v = {}, {}, {}, {}

    def step(self, params, grads):
        beta1, beta2, beta3 = self.betas
        for i, (p, g) in enumerate(zip(params, grads, strict=True)):
            if g is None:
                continue
            zeros = np.zeros_like(p)
            g = -g if self.maximize else g
            t = self.t[i] = self.t.get(i, 0) + 1
            alpha = self.alpha * min(1.0, t / self.alpha_warmup if self.alpha_warmup else 1.0)
            b = warmed(beta3, beta1, t, self.beta3_warmup)
            m = self.m[i] = beta1 * self.m.get(i, zeros) + (1 - beta1) * g
            slow = self.slow[i] = b * self.slow.get(i, zeros) + (1 - b) * g
            v = self.v[i] = beta2 * self.v.get(i, zeros) + (1 - beta2) * g**2
            u = m / (1 - beta1**t) + alpha * slow
            u = u / (np.sqrt(v / (1 - beta2**t)) + self.eps)
            p[...] = p - self.lr * (u + self.weight_decay * p)


def gain(options: Options) -> float:
    return 1 - float(options.get("betas", (0.9, 0.999))[1])


def draw(rng: np.random.Generator) -> Options:
    options = draws.averages(rng)
    betas = (*options["betas"], draws.beta(rng))
    warmups = {name: draws.pick(rng, None, 1, 7, 100) for name in ("beta3_warmup", "alpha_warmup")}
    return {**options, "betas": betas, "alpha": draws.pick(rng, 0.0, 2.0, 8.0), **warmups}


CARD = Card(
    "AdEMAMix",
    AdEMAMix,
    traits=RULE,
    variants=(
        {},
        {"lr": 0.01, "betas": (0.8, 0.95, 0.99), "alpha": 5.0, "eps": 1e-6, "weight_decay": 0.1},
        {"beta3_warmup": 40, "alpha_warmup": 30},
        {"betas": (0.0, 0.9, 0.99), "beta3_warmup": 1, "alpha_warmup": 50},
        {"lr": 0.01, "beta3_warmup": 1000, "weight_decay": 0.1, "maximize": True},
        {"alpha": 0.0},
    ),
    states=("step", "exp_avg_fast", "exp_avg_slow", "exp_avg_sq"),
    kept={"exp_avg_fast": "m", "exp_avg_slow": "slow", "exp_avg_sq": "v"},
    bad=(
        *MOMENTS_OF_THREE,
        *EPS,
        ({"alpha": -1.0}, ValueError, "Invalid alpha value: -1.0 (expected >= 0)"),
        ({"beta3_warmup": 0}, ValueError, "Invalid beta3_warmup value: 0 (expected > 0)"),
        ({"alpha_warmup": 0}, ValueError, "Invalid alpha_warmup value: 0 (expected > 0)"),
        (
            {"beta3_warmup": np.inf},
            ValueError,
            "Invalid beta3_warmup value: inf (expected a finite",
        ),
        (
            {"alpha_warmup": np.inf},
            ValueError,
            "Invalid alpha_warmup value: inf (expected a finite",
        ),
        ({"alpha_warmup": "long"}, TypeError, "alpha_warmup must be a number, got str: 'long'"),
    ),
    quotient=Quotient(gain, ({}, {"betas": (0.9, 0.99999, 0.9)}, {"betas": (0.0, 0.0, 0.0)})),
    draw=draw,
    source=Source("AdEMAMix", "c3d73c0", place="apple/ml-ademamix"),
    timed=(Timed(4),),
    drawing=Recipe(
        "cyoptim.AdEMAMix([p], lr=0.02, betas=(0.9, 0.999, 0.99), alpha=2.0)",
        "Adam's path, drawn out by the slow average, which takes long to turn.",
    ),
    valley=Valley({"lr": 0.02, "betas": (0.9, 0.999, 0.99)}),
)
