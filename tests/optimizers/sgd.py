"""Gradient descent: plain, with momentum (Polyak 1964), with Nesterov's form (Sutskever 2013)."""

import numpy as np

from tests.support import draws
from tests.support.bad_options import COMMON_OF_TORCH, DECAY, DECAY_NAN, FUSED_AND_OTHERS, RATE
from tests.support.cards import FUSED, RULE, SPARSE, Card, Recipe, Source, Timed, Valley


class SGD:
    def __init__(
        self, lr=1e-3, momentum=0, dampening=0, weight_decay=0, nesterov=False, maximize=False
    ):
        self.lr, self.momentum, self.dampening = lr, momentum, dampening
        self.weight_decay, self.nesterov, self.maximize = weight_decay, nesterov, maximize
        self.buffers = {}

    def step(self, params, grads):
        for i, (p, g) in enumerate(zip(params, grads, strict=True)):
            if g is None:
                continue
            d = -g if self.maximize else g
            if self.weight_decay:
                d = d + self.weight_decay * p
            if self.momentum:
                if i not in self.buffers:
                    self.buffers[i] = np.array(d)
                else:
                    self.buffers[i] = self.momentum * self.buffers[i] + (1 - self.dampening) * d
                d = d + self.momentum * self.buffers[i] if self.nesterov else self.buffers[i]
            p[...] = p - self.lr * d


NESTEROV = "Nesterov momentum requires a momentum and zero dampening"


def drawn(rng: draws.Rng) -> draws.Options:
    momentum = float(draws.pick(rng, 0, 0.9, rng.random(), 1.0))
    nesterov = momentum > 0 and draws.chance(rng, 0.4)
    dampening = 0 if nesterov else float(draws.pick(rng, 0, 0.5, 1, rng.random()))
    return {
        "momentum": momentum, "dampening": dampening, "nesterov": nesterov,
        "weight_decay": draws.decay(rng),
    }  # fmt: skip


CARD = Card(
    "SGD",
    SGD,
    traits=RULE | {SPARSE, FUSED},
    torch="SGD",
    variants=(
        {},
        {"lr": 0.1},
        {"lr": 0.05, "weight_decay": 0.1},
        {"lr": 0.05, "maximize": True, "weight_decay": 0.1},
        {"lr": 0.05, "momentum": 0.9},
        {"lr": 0.05, "momentum": 0.9, "dampening": 0.3},
        {"lr": 0.05, "momentum": 0.9, "dampening": 0.3, "weight_decay": 0.1, "maximize": True},
        {"lr": 0.05, "momentum": 0.9, "nesterov": True},
        {"lr": 0.05, "momentum": 0.9, "nesterov": True, "weight_decay": 0.1, "maximize": True},
    ),
    sparse_variants=(
        {"lr": 0.1},
        {"lr": 0.1, "maximize": True},
        {"lr": 0.1, "momentum": 0.9},
        {"lr": 0.1, "momentum": 0.9, "nesterov": True},
        {"lr": 0.1, "momentum": 0.9, "dampening": 0.5},
    ),
    history={"momentum": 0.9},
    states=(),
    more_states={"momentum": ("momentum_buffer",)},
    kept={"momentum_buffer": "buffers"},
    bad_as_torch=(
        RATE[0],  # torch takes NaN
        *DECAY,
        *FUSED_AND_OTHERS,
        ({"momentum": -0.9}, ValueError, "Invalid momentum value: -0.9"),
        ({"momentum": -0.5}, ValueError, "Invalid momentum value: -0.5"),
        ({"nesterov": True}, ValueError, NESTEROV),
        ({"nesterov": True, "momentum": 0.9, "dampening": 0.1}, ValueError, NESTEROV),
        ({"nesterov": True, "momentum": 0.9, "dampening": 0.5}, ValueError, NESTEROV),
    ),
    bad=(RATE[1], *COMMON_OF_TORCH, *DECAY_NAN),
    draw=drawn,
    more_sources={
        "timm": Source(
            "timm.optim.SGDW",
            "1.0.31",
            place="timm",
            variants=(
                {"lr": 0.05, "momentum": 0.9, "caution": True},
                {"lr": 0.05, "momentum": 0.9, "nesterov": True, "maximize": True, "caution": True},
                {"lr": 0.05, "momentum": 0.8, "dampening": 0.3, "caution": True},
            ),
        ),
    },
    timed=(Timed(1), Timed(2, {"momentum": 0.9}, "-momentum")),
    drawing=Recipe(
        "cyoptim.SGD([p], lr=0.004, momentum=0.9)",
        "Momentum carries it through the bend and along the floor, where plain SGD creeps.",
    ),
    valley=Valley({"lr": 1e-3, "momentum": 0.9}),
)
