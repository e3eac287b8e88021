"""D-Adaptation of Adam: Defazio and Mishchenko (2023), with the options of ``dadaptation``."""

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
from tests.support.distance import DISTANCE, GROWTH, LOG, SLOW, alone, signed


class DAdaptAdam:
    def __init__(
        self, lr=1.0, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0, decouple=False,
        use_bias_correction=False, d0=1e-6, growth_rate=np.inf, layer_scale=1.0, maximize=False,
    ):  # fmt: skip
        self.__dict__.update(locals())
        self.d, self.numerator, self.k = d0, 0.0, 0
        self.m, self.v, self.s = {}, {}, {}

    def step(self, params, grads):
        beta1, beta2 = self.betas
        beta3, r = np.sqrt(beta2), self.layer_scale
        size = self.d * self.lr
        if self.use_bias_correction:
            size *= np.sqrt(1 - beta2 ** (self.k + 1)) / (1 - beta1 ** (self.k + 1))
        added = length = 0.0
        present = [
            (i, p, g)
            for i, (p, g) in enumerate(zip(params, signed(grads, self.maximize), strict=True))
            if g is not None
        ]
        for i, p, g in present:
            if not self.decouple:
                g = g + self.weight_decay * p
            zeros = np.zeros_like(p)
            m, v, s = (x.get(i, zeros) for x in (self.m, self.v, self.s))
            added += r * size * np.sum(g * (s / (np.sqrt(v) + self.eps)))
            self.m[i] = beta1 * m + (1 - beta1) * r * size * g
            self.v[i] = beta2 * v + (1 - beta2) * g**2
            self.s[i] = beta3 * s + (1 - beta3) * size * g
            length += r * np.sum(np.abs(self.s[i]))
        if length == 0:
            return
        self.numerator = beta3 * self.numerator + (1 - beta3) * added
        estimate = self.numerator / ((1 - beta3) * length)
        self.d = np.fmax(self.d, min(estimate, self.d * self.growth_rate))
        self.k += 1
        for i, p, _ in present:
            decay = self.weight_decay if self.decouple else 0.0
            p[...] = p - decay * size * p - self.m[i] / (np.sqrt(self.v[i]) + self.eps)


CARD = Card(
    "DAdaptAdam",
    DAdaptAdam,
    traits=RULE - {ELEMENT_WISE, KERNEL} | {JOINED, ADAPTIVE},
    variants=(
        {},
        {**SLOW, "weight_decay": 0.1},
        {**SLOW, "weight_decay": 0.1, "decouple": True, "betas": (0.8, 0.95)},
        {**SLOW, "use_bias_correction": True, "lr": 0.5},
        {"d0": 0.001, "growth_rate": 1.05, "eps": 1e-3},
        {**SLOW, "layer_scale": 0.5, "maximize": True},
    ),
    states=("step", "exp_avg", "exp_avg_sq", "s"),
    kept={"exp_avg": "m", "exp_avg_sq": "v", "s": "s"},
    bad=(
        *MOMENTS,
        *EPS,
        *DISTANCE,
        *LOG,
        *GROWTH,
        ({"layer_scale": 0.0}, ValueError, "Invalid layer_scale value: 0.0 (expected > 0)"),
    ),
    source=Source(
        "dadaptation.DAdaptAdam",
        "3.2",
        place="dadaptation",
        twin=alone,
        removed="steps without any gradient; gradients are given as copies",
    ),
    timed=(Timed(4, passes=("gMVS", "mvP")),),
    drawing=Recipe(
        "cyoptim.DAdaptAdam([p])",
        "The first steps are too small to see; then the estimate of the distance grows.",
    ),
    valley=Valley({"d0": 0.01}, 0.9995),
)
