"""Prodigy: algorithm 4 of Mishchenko and Defazio (2023), with the options of ``prodigyopt``."""

import numpy as np

from tests.support.bad_options import EPS, MOMENTS
from tests.support.cards import (
    ADAPTIVE,
    ELEMENT_WISE,
    JOINED,
    KERNEL,
    RULE,
    Card,
    Recipe,
    Source,
    Timed,
    Valley,
)
from tests.support.distance import DISTANCE, GROWTH, SLOW, alone, signed


class Prodigy:
    def __init__(
        self, lr=1.0, betas=(0.9, 0.999), beta3=None, eps=1e-8, weight_decay=0.0, decouple=True,
        use_bias_correction=False, safeguard_warmup=False, d0=1e-6, d_coef=1.0,
        growth_rate=np.inf, slice_p=1, maximize=False,
    ):  # fmt: skip
        self.__dict__.update(locals())
        self.d = self.d_max = d0
        self.numerator, self.k = 0.0, 0
        self.m, self.v, self.s, self.p0 = {}, {}, {}, {}

    def step(self, params, grads):
        beta1, beta2 = self.betas
        beta3 = np.sqrt(beta2) if self.beta3 is None else self.beta3
        size = self.d * self.lr
        if self.use_bias_correction:
            size *= np.sqrt(1 - beta2 ** (self.k + 1)) / (1 - beta1 ** (self.k + 1))
        ratio, every = self.d / self.d0, slice(None, None, self.slice_p)
        numerator, denominator = beta3 * self.numerator, 0.0
        present = [
            (i, p, g)
            for i, (p, g) in enumerate(zip(params, signed(grads, self.maximize), strict=True))
            if g is not None
        ]
        for i, p, g in present:
            if not self.decouple:
                g = g + self.weight_decay * p
            if i not in self.s:
                self.m[i], self.v[i] = np.zeros_like(p), np.zeros_like(p)
                self.p0[i] = p.ravel()[every].copy()
                self.s[i] = np.zeros_like(self.p0[i])
            sampled = g.ravel()[every]
            numerator += ratio * size * np.sum(sampled * (self.p0[i] - p.ravel()[every]))
            self.m[i] = beta1 * self.m[i] + (1 - beta1) * self.d * g
            self.v[i] = beta2 * self.v[i] + (1 - beta2) * (self.d * g) ** 2
            gain = self.d if self.safeguard_warmup else size
            self.s[i] = beta3 * self.s[i] + ratio * gain * sampled
            denominator += np.sum(np.abs(self.s[i]))
        if denominator == 0:
            return
        before = self.d
        estimate = self.d_coef * numerator / denominator
        if self.d == self.d0:
            self.d = np.fmax(self.d, estimate)
        self.d_max = np.fmax(self.d_max, estimate)
        self.d = min(self.d_max, self.d * self.growth_rate)
        self.numerator, self.k = numerator, self.k + 1
        for i, p, _ in present:
            decay = self.weight_decay if self.decouple else 0.0
            u = self.m[i] / (np.sqrt(self.v[i]) + self.d * self.eps)
            if beta1 == 0:  # then prodigyopt weighs the gradient by the new estimate
                u = u * self.d / before
            p[...] = p - decay * size * p - size * u


CARD = Card(
    "Prodigy",
    Prodigy,
    traits=RULE - {ELEMENT_WISE, KERNEL} | {JOINED, ADAPTIVE},
    variants=(
        {},
        {**SLOW, "weight_decay": 0.1},
        {**SLOW, "weight_decay": 0.1, "decouple": False, "betas": (0.8, 0.95), "beta3": 0.9},
        {**SLOW, "use_bias_correction": True, "safeguard_warmup": True, "lr": 0.5},
        {"d0": 0.001, "growth_rate": 1.05, "d_coef": 2.0, "eps": 1e-3},
        {**SLOW, "slice_p": 3},
        {**SLOW, "betas": (0.0, 0.99)},
        {**SLOW, "maximize": True},
    ),
    states=("step", "exp_avg", "exp_avg_sq", "s", "p0"),
    state_shapes={"s": (6,), "p0": (6,)},
    slice="slice_p",
    kept={"exp_avg": "m", "exp_avg_sq": "v", "s": "s", "p0": "p0"},
    averages=("p0",),
    bad=(
        *MOMENTS,
        *EPS,
        *DISTANCE,
        *GROWTH,
        ({"beta3": 1.5}, ValueError, "Invalid beta3 value: 1.5 (expected 0.0 to 1.0)"),
        ({"d_coef": 0.0}, ValueError, "Invalid d_coef value: 0.0 (expected > 0)"),
        ({"slice_p": 0}, ValueError, "Invalid slice_p value: 0 (expected >= 1)"),
        ({"slice_p": 2.5}, TypeError, "slice_p must be a whole number, got 2.5"),
    ),
    source=Source(
        "prodigyopt.Prodigy",
        "1.1.2",
        place="prodigyopt",
        twin=alone,
        removed="gradients are given as copies",
    ),
    timed=(Timed(4, passes=("gpsMVR", "mvP")),),
    drawing=Recipe(
        "cyoptim.Prodigy([p], d_coef=0.5)",
        "The first steps are too small to see; then the estimate of the distance grows.",
    ),
    valley=Valley({"d0": 0.01}, 0.9995),
)
