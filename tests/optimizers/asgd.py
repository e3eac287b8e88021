"""Averaged gradient descent: Polyak & Juditsky (1992), with the schedules of Bottou (2010)."""

import numpy as np

from tests.support import draws
from tests.support.bad_options import CAPTURABLE, COMMON_OF_TORCH, DECAY, DECAY_NAN, NAN, RATE
from tests.support.cards import RULE, Card, Recipe, Timed, Valley


class ASGD:
    def __init__(self, lr=1e-2, lambd=1e-4, alpha=0.75, t0=1e6, weight_decay=0, maximize=False):
        self.lr, self.lambd, self.alpha, self.t0 = lr, lambd, alpha, t0
        self.weight_decay, self.maximize = weight_decay, maximize
        self.t, self.ax, self.eta, self.mu = {}, {}, {}, {}

    def step(self, params, grads):
        for i, (p, g) in enumerate(zip(params, grads, strict=True)):
            if g is None:
                continue
            g = -g if self.maximize else g
            if self.weight_decay:
                g = g + self.weight_decay * p
            t = self.t[i] = self.t.get(i, 0) + 1
            # eta and mu are kept in float32, as torch does.
            eta = float(self.eta.get(i, np.float32(self.lr)))
            mu = float(self.mu.get(i, 1.0))
            p[...] = (1 - self.lambd * eta) * p - eta * g
            average = self.ax.get(i, np.zeros_like(p))
            self.ax[i] = average + mu * (p - average)
            self.eta[i] = np.float32(self.lr / (1 + self.lambd * self.lr * t) ** self.alpha)
            self.mu[i] = np.float32(1 / max(1, t - self.t0))


def drawn(rng: draws.Rng) -> draws.Options:
    return {
        "lambd": float(draws.pick(rng, 0, 1e-4, rng.random())),
        "alpha": float(rng.uniform(0, 1.5)),
        "t0": float(draws.pick(rng, 0, 2, 1e6)),
        "weight_decay": draws.decay(rng),
    }


CARD = Card(
    "ASGD",
    ASGD,
    traits=RULE,
    torch="ASGD",
    variants=(
        {},
        {"lr": 0.05, "lambd": 0.1, "alpha": 0.5, "t0": 5},
        {"weight_decay": 0.1, "t0": 10},
        {"weight_decay": 0.1, "maximize": True},
    ),
    states=("step", "eta", "mu", "ax"),
    numbers=("eta", "mu"),
    kept={"ax": "ax"},
    averages=("ax",),
    bad_as_torch=(*RATE, *DECAY),
    bad=(
        *COMMON_OF_TORCH,
        *DECAY_NAN,
        *CAPTURABLE,
        ({"t0": NAN}, ValueError, "Invalid t0 value: nan"),
        ({"lambd": "x"}, TypeError, "lambd must be a number, got str: 'x'"),
    ),
    draw=drawn,
    # Until the step t0 the average is a copy, but memory reads the lines that are to be written.
    timed=(Timed(2), Timed(2, {"t0": 0}, "-averaging")),
    drawing=Recipe(
        "cyoptim.ASGD([p], lr=0.004, t0=50)",
        "The path is SGD's. The average of all points since step 50 is the dashed line.",
    ),
    valley=Valley({"lr": 1.5e-3, "lambd": 0, "t0": 1e9}),
)
