"""D-Adaptation of SGD, as the authors' ``dadaptation`` has it."""

import numpy as np

from tests.support.bad_options import COMMON, DECAY, RATE
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


class DAdaptSGD:
    def __init__(
        self, lr=1.0, momentum=0.0, weight_decay=0.0, d0=1e-6, growth_rate=np.inf, maximize=False
    ):
        self.__dict__.update(locals())
        self.d, self.numerator, self.first = d0, 0.0, 0.0
        self.s, self.x0 = {}, {}

    def step(self, params, grads):
        present = [
            (i, p, g)
            for i, (p, g) in enumerate(zip(params, signed(grads, self.maximize), strict=True))
            if g is not None
        ]
        for i, p, _ in present:
            if i not in self.s:
                self.s[i], self.x0[i] = np.zeros_like(p), p.copy()
        if self.first == 0:
            self.first = np.sqrt(sum(np.sum(g * g) for _, _, g in present))
        if self.first == 0:
            return
        size, squares = self.d * self.lr / self.first, 0.0
        for i, p, g in present:
            g = g + self.weight_decay * p
            self.numerator += size * np.sum(g * self.s[i])
            self.s[i] = self.s[i] + size * g
            squares += np.sum(self.s[i] ** 2)
        if squares == 0:
            return
        estimate = 2 * self.numerator / np.sqrt(squares)
        self.d = np.fmax(self.d, min(estimate, self.d * self.growth_rate))
        for i, p, _ in present:
            p[...] = self.momentum * p + (1 - self.momentum) * (self.x0[i] - self.s[i])


CARD = Card(
    "DAdaptSGD",
    DAdaptSGD,
    traits=RULE - {ELEMENT_WISE, KERNEL} | {JOINED, ADAPTIVE},
    variants=(
        {},
        {**SLOW, "weight_decay": 0.1},
        {**SLOW, "momentum": 0.9, "lr": 0.5},
        {"d0": 0.001, "growth_rate": 1.05, "momentum": 0.5},
        {**SLOW, "weight_decay": 0.1, "maximize": True},
    ),
    states=("s", "x0"),
    kept={"s": "s", "x0": "x0"},
    averages=("x0",),
    bad=(
        *RATE,
        *DECAY,
        *COMMON,
        *DISTANCE,
        *LOG,
        *GROWTH,
        ({"momentum": 1.5}, ValueError, "Invalid momentum value: 1.5 (expected 0.0 to 1.0)"),
    ),
    source=Source(
        "dadaptation.DAdaptSGD",
        "3.2",
        place="dadaptation",
        twin=alone,
        removed="steps without any gradient; gradients are given as copies",
    ),
    timed=(Timed(2, passes=("gS", "srP")),),
    drawing=Recipe(
        "cyoptim.DAdaptSGD([p], momentum=0.9)",
        "The first steps are too small to see; then the estimate of the distance grows.",
    ),
    valley=Valley({"momentum": 0.9}),
)
