"""SGDP: algorithm 2 of Heo et al. (2021), where the buffer is projected as in the authors' code."""

import numpy as np

from tests.optimizers.adamp import PROJECTION, projected
from tests.support import draws
from tests.support.bad_options import COMMON, DECAY, EPS, NAN, RATE
from tests.support.cards import (
    COMPLEX,
    ELEMENT_WISE,
    KERNEL,
    RULE,
    Card,
    Recipe,
    Source,
    Timed,
    Valley,
)


class SGDP:
    def __init__(
        self, lr=1e-3, momentum=0, dampening=0, weight_decay=0, nesterov=False, eps=1e-8,
        delta=0.1, wd_ratio=0.1, maximize=False, caution=False,
    ):  # fmt: skip
        self.__dict__.update(locals())
        self.b = {}

    def step(self, params, grads):
        for i, (p, g) in enumerate(zip(params, grads, strict=True)):
            if g is None:
                continue
            g = -g if self.maximize else g
            old = self.b.get(i, np.zeros_like(p))
            b = self.b[i] = self.momentum * old + (1 - self.dampening) * g
            u = g + self.momentum * b if self.nesterov else b
            plain, is_projected, u = projected(p, g, u, self.delta, self.eps, self.caution)
            if not self.nesterov:
                self.b[i] = plain
            ratio = self.wd_ratio if is_projected else 1
            decay = self.lr * self.weight_decay * ratio / (1 - self.momentum)
            p[...] = (1 - decay) * p - self.lr * u


def drawn(rng):
    return {
        "momentum": float(draws.pick(rng, 0, 0.9, 0.99 * rng.random())),
        "dampening": float(draws.pick(rng, 0, 0.5, 1, rng.random())),
        "weight_decay": float(draws.pick(rng, 0, 0.01)),
        "delta": float(draws.pick(rng, 0, 0.1, 1, 10)),
        "nesterov": draws.chance(rng, 0.4),
    }


CARD = Card(
    "SGDP",
    SGDP,
    traits=RULE - {ELEMENT_WISE, KERNEL, COMPLEX},
    variants=(
        {
            "lr": 0.01,
            "momentum": 0.9,
            "delta": 0.8,
            "weight_decay": 0.1,
            "wd_ratio": 0.5,
            "nesterov": True,
        },
        {"lr": 1e-3},
        {"lr": 0.01, "momentum": 0.9, "delta": 10.0, "weight_decay": 0.1},
        {"lr": 0.01, "momentum": 0.8, "dampening": 0.3, "delta": 0.8},
        {"lr": 0.01, "momentum": 0.9, "delta": 0.8, "weight_decay": 0.1, "maximize": True},
    ),
    states=("momentum",),
    kept={"momentum": "b"},
    bad=(
        *RATE,
        *DECAY,
        *EPS,
        *COMMON,
        *PROJECTION,
        ({"momentum": -0.9}, ValueError, "Invalid momentum value: -0.9"),
        ({"momentum": 1.0}, ValueError, "Invalid momentum value: 1.0"),
        ({"dampening": NAN}, ValueError, "Invalid dampening value: nan"),
    ),
    draw=drawn,
    source=Source("adamp.SGDP", "0.3.0"),
    more_sources={
        # In Nesterov's form, as in others timm's buffer is not projected.
        "timm": Source(
            "timm.optim.SGDP",
            "1.0.31",
            variants=(
                {"lr": 0.01, "momentum": 0.9, "nesterov": True, "caution": True},
                {
                    "lr": 0.01,
                    "momentum": 0.9,
                    "delta": 10.0,
                    "weight_decay": 0.1,
                    "nesterov": True,
                    "caution": True,
                },
                {"lr": 0.01, "momentum": 0.8, "delta": 0.8, "nesterov": True, "caution": True},
            ),
        ),
    },
    timed=(
        Timed(2, {"momentum": 0.9}),
        Timed(2, {"momentum": 0.9}, "-matrices", ("gpM", "mP"), matrices=True),
    ),
    drawing=Recipe(
        "cyoptim.SGDP([p], lr=0.004, momentum=0.9)",
        "A matrix of one row. Where the gradient is orthogonal to the parameter, so is the step.",
        shape=(1, 2),
    ),
    valley=Valley({"lr": 1e-3, "momentum": 0.9}),
)
