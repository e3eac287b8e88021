"""RMSprop: slide 29 of Hinton's lecture 6e (2012); centered, with momentum: equations 38 to 45 of
Graves (2013), with the epsilon outside of the root as in torch."""

import numpy as np

from tests.support import draws
from tests.support.bad_options import CAPTURABLE, COMMON_OF_TORCH, DECAY, DECAY_NAN, EPS, RATE
from tests.support.cards import RULE, Card, Quotient, Recipe, Timed, Valley


class RMSprop:
    def __init__(
        self,
        lr=1e-2,
        alpha=0.99,
        eps=1e-8,
        weight_decay=0,
        momentum=0,
        centered=False,
        maximize=False,
    ):
        self.lr, self.alpha, self.eps = lr, alpha, eps
        self.weight_decay, self.momentum = weight_decay, momentum
        self.centered, self.maximize = centered, maximize
        self.n, self.g, self.b = {}, {}, {}

    def step(self, params, grads):
        for i, (p, d) in enumerate(zip(params, grads, strict=True)):
            if d is None:
                continue
            zeros = np.zeros_like(p)
            d = -d if self.maximize else d
            if self.weight_decay:
                d = d + self.weight_decay * p
            variance = self.n[i] = self.alpha * self.n.get(i, zeros) + (1 - self.alpha) * d**2
            if self.centered:
                self.g[i] = self.alpha * self.g.get(i, zeros) + (1 - self.alpha) * d
                variance = variance - self.g[i] ** 2
            step = d / (np.sqrt(variance) + self.eps)
            if self.momentum:
                step = self.b[i] = self.momentum * self.b.get(i, zeros) + step
            p[...] = p - self.lr * step


def drawn(rng: draws.Rng) -> draws.Options:
    centered = draws.chance(rng, 0.4)
    # The variance of one gradient that is not averaged is zero; nearly, if it hardly is.
    usual = draws.pick(rng, 0.99, rng.uniform(0.5, 0.9999)) if centered else draws.beta(rng)
    momentum, alpha = float(draws.pick(rng, 0, 0.9, rng.random())), float(usual)
    return {
        "alpha": alpha, "centered": centered, "momentum": momentum,
        "eps": draws.eps(rng), "weight_decay": draws.decay(rng, alpha),
    }  # fmt: skip


CARD = Card(
    "RMSprop",
    RMSprop,
    traits=RULE,
    torch="RMSprop",
    variants=(
        {},
        {"alpha": 0.9, "eps": 1e-6},
        {"weight_decay": 0.1},
        {"weight_decay": 0.1, "maximize": True},
        {"momentum": 0.9},
        {"centered": True},
        {"centered": True, "momentum": 0.9},
        {"centered": True, "momentum": 0.9, "weight_decay": 0.1, "maximize": True},
    ),
    states=("step", "square_avg"),
    more_states={"momentum": ("momentum_buffer",), "centered": ("grad_avg",)},
    kept={"square_avg": "n", "momentum_buffer": "b", "grad_avg": "g"},
    history={"momentum": 0.9, "centered": True},
    bad_as_torch=(
        *RATE,
        *DECAY,
        *EPS,
        ({"alpha": -0.1}, ValueError, "Invalid alpha value: -0.1"),
        ({"momentum": -0.1}, ValueError, "Invalid momentum value: -0.1"),
        ({"momentum": -1.0}, ValueError, "Invalid momentum value: -1.0"),
    ),
    bad=(*COMMON_OF_TORCH, *DECAY_NAN, *CAPTURABLE),
    quotient=Quotient(
        lambda o: 1 - o.get("alpha", 0.99),
        (
            {},
            {"momentum": 0.9},
            {"centered": True},
            {"centered": True, "momentum": 0.9},
            {"alpha": 0.99999, "maximize": True},
        ),
    ),
    draw=drawn,
    timed=(Timed(2),),
    drawing=Recipe(
        "cyoptim.RMSprop([p], lr=0.02)",
        "Like Adam without momentum: straight to the floor, then along it at `lr` a step.",
    ),
    valley=Valley({"lr": 3e-3}, 0.9995),
)
