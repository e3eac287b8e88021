"""D-Adaptation of Lion, as the authors' ``dadaptation`` has it."""

import numpy as np

from tests.support.bad_options import MOMENTS
from tests.support.cards import (
    ADAPTIVE,
    COMPLEX,
    ELEMENT_WISE,
    JOINED,
    KERNEL,
    RULE,
    Card,
    Recipe,
    Source,
    Timed,
)
from tests.support.distance import DISTANCE, LOG, alone, signed


class DAdaptLion:
    def __init__(self, lr=1.0, betas=(0.9, 0.99), weight_decay=0.0, d0=1e-6, maximize=False):
        self.__dict__.update(locals())
        self.d, self.numerator = d0, 0.0
        self.m, self.s = {}, {}

    def step(self, params, grads):
        beta1, beta2 = self.betas
        beta3, size = np.sqrt(beta2), self.d * self.lr
        added = length = 0.0
        for i, (p, g) in enumerate(zip(params, signed(grads, self.maximize), strict=True)):
            if g is None:
                continue
            m, s = (x.get(i, np.zeros_like(p)) for x in (self.m, self.s))
            u = np.sign(beta1 * m + (1 - beta1) * g)
            p[...] = (1 - size * self.weight_decay) * p - size * u
            self.m[i] = beta2 * m + (1 - beta2) * size * g
            added += size * np.sum(u * s)
            self.s[i] = beta3 * s + (1 - beta3) * size * u
            length += np.sum(np.abs(self.s[i]))
        if length == 0:
            return
        self.numerator = beta3 * self.numerator + (1 - beta3) * added
        self.d = np.fmax(self.d, self.numerator / ((1 - beta3) * length))


CARD = Card(
    "DAdaptLion",
    DAdaptLion,
    traits=RULE - {ELEMENT_WISE, KERNEL, COMPLEX} | {JOINED, ADAPTIVE},
    variants=(
        {},
        {"d0": 1.0, "lr": 0.001, "weight_decay": 0.1},
        {"d0": 0.1, "betas": (0.8, 0.95), "lr": 0.01},
        {"d0": 1.0, "lr": 0.001, "weight_decay": 0.1, "maximize": True},
    ),
    states=("exp_avg", "s"),
    kept={"exp_avg": "m", "s": "s"},
    bad=(*MOMENTS, *DISTANCE, *LOG),
    source=Source(
        "dadaptation.DAdaptLion",
        "3.2",
        place="dadaptation",
        twin=alone,
        removed="steps without any gradient; gradients are given as copies",
    ),
    timed=(Timed(3, passes=("gPMS",)),),
    drawing=Recipe(
        "cyoptim.DAdaptLion([p], lr=0.2, d0=0.001)",
        "The first steps are too small to see; then the estimate of the distance grows.",
    ),
)
