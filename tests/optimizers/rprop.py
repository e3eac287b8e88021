"""iRprop-: figure 4 of Igel & Huesken (2000)."""

import numpy as np

from tests.support import draws
from tests.support.bad_options import CAPTURABLE, COMMON_OF_TORCH, RATE
from tests.support.cards import RULE, Card, Recipe, Timed, Valley


class Rprop:
    def __init__(self, lr=1e-2, etas=(0.5, 1.2), step_sizes=(1e-6, 50), maximize=False):
        self.lr, self.etas, self.step_sizes, self.maximize = lr, etas, step_sizes, maximize
        self.prev, self.sizes = {}, {}

    def step(self, params, grads):
        minus, plus = self.etas
        for i, (p, g) in enumerate(zip(params, grads, strict=True)):
            if g is None:
                continue
            g = -g if self.maximize else g
            # torch takes the sign of NaN for 0.
            sign = np.where(np.isnan(g), 0, np.sign(g))
            turn = sign * np.sign(self.prev.get(i, np.zeros_like(p)))
            factor = np.where(turn > 0, plus, np.where(turn < 0, minus, 1.0))
            size = self.sizes.get(i, np.full_like(p, self.lr)) * factor
            self.sizes[i] = np.clip(size, *self.step_sizes)
            self.prev[i] = np.where(turn < 0, 0, sign)
            p[...] = p - self.sizes[i] * self.prev[i]


def drawn(rng: draws.Rng) -> draws.Options:
    low = draws.power(rng, -8, -2)
    return {
        "etas": (float(rng.uniform(0.01, 0.99)), float(rng.uniform(1.01, 3))),
        "step_sizes": (low, low * draws.power(rng, 0, 4)),
    }


CARD = Card(
    "Rprop",
    Rprop,
    traits=RULE,
    torch="Rprop",
    variants=(
        {},
        {"lr": 0.05, "etas": (0.3, 1.5), "step_sizes": (0.01, 0.2)},
        {"maximize": True},
    ),
    states=("step", "prev", "step_size"),
    kept={"prev": "prev", "step_size": "sizes"},
    bad_as_torch=(
        *RATE,
        ({"etas": (1.0, 0.5)}, ValueError, "Invalid eta values: 1.0, 0.5"),
    ),
    bad=(
        *COMMON_OF_TORCH,
        *CAPTURABLE,
        ({"etas": 0.5}, TypeError, "etas must be a pair of numbers, got 0.5"),
        ({"step_sizes": (np.nan, 1)}, ValueError, "Invalid step_sizes value at index 0: nan"),
        ({"step_sizes": (1,)}, TypeError, "step_sizes must be a pair of numbers, got (1,)"),
    ),
    draw=drawn,
    # Timed gradients never change their sign, so that the largest step is soon the only one.
    timed=(Timed(3, {"lr": 1e-3, "step_sizes": (1e-6, 1e-2)}),),
    drawing=Recipe(
        "cyoptim.Rprop([p], lr=0.02)",
        "Only signs count: a coordinate's step grows while its sign stays, and halves at a turn.",
    ),
    valley=Valley({"lr": 1e-3, "step_sizes": (1e-10, 1)}),
)
