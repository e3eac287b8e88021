"""LARS: algorithm 1 of You, Gitman and Ginsburg (2017), with the options of timm's ``Lars``."""

import numpy as np

from tests.support.bad_options import COMMON, DECAY, DECAY_NAN, EPS, NAN, RATE
from tests.support.cards import ELEMENT_WISE, KERNEL, RULE, Card, Recipe, Source, Timed, Valley


class Lars:
    def __init__(
        self, lr=1.0, momentum=0, dampening=0, weight_decay=0, nesterov=False, trust_coeff=0.001,
        eps=1e-8, trust_clip=False, always_adapt=False, maximize=False,
    ):  # fmt: skip
        self.__dict__.update(locals())
        self.buffers = {}

    def step(self, params, grads):
        for i, (p, g) in enumerate(zip(params, grads, strict=True)):
            if g is None:
                continue
            d = -g if self.maximize else g
            if self.weight_decay != 0 or self.always_adapt:
                d = (d + self.weight_decay * p) * self.ratio(p, g)
            if self.momentum:
                if i not in self.buffers:
                    self.buffers[i] = np.array(d)
                else:
                    self.buffers[i] = self.momentum * self.buffers[i] + (1 - self.dampening) * d
                d = d + self.momentum * self.buffers[i] if self.nesterov else self.buffers[i]
            p[...] = p - self.lr * d

    def ratio(self, p, g):
        of_p, of_g = np.sqrt(np.sum(np.abs(p) ** 2)), np.sqrt(np.sum(np.abs(g) ** 2))
        ratio = 1.0
        if of_p > 0 and of_g > 0:
            ratio = self.trust_coeff * of_p / (of_g + self.weight_decay * of_p + self.eps)
        return min(ratio / self.lr, 1.0) if self.trust_clip else ratio


NESTEROV = "Nesterov momentum requires a momentum and zero dampening"

CARD = Card(
    "Lars",
    Lars,
    traits=RULE - {ELEMENT_WISE, KERNEL},
    variants=(
        {"trust_coeff": 0.02, "weight_decay": 0.1},
        {"lr": 0.05},  # no ratio: gradient descent
        {"lr": 0.5, "trust_coeff": 0.02, "always_adapt": True, "eps": 0.1, "maximize": True},
        {"lr": 2.0, "trust_coeff": 0.01, "weight_decay": 0.1, "momentum": 0.9, "dampening": 0.3},
        {
            "trust_coeff": 0.01,
            "weight_decay": 0.1,
            "momentum": 0.9,
            "nesterov": True,
            "maximize": True,
        },
        {"lr": 0.1, "trust_coeff": 0.2, "trust_clip": True, "weight_decay": 0.1, "momentum": 0.5},
        {"lr": 0.05, "momentum": 0.9, "nesterov": True},
    ),
    history={"momentum": 0.9},
    states=(),
    more_states={"momentum": ("momentum_buffer",)},
    kept={"momentum_buffer": "buffers"},
    bad=(
        *RATE,
        *DECAY,
        *DECAY_NAN,
        *EPS,
        *COMMON,
        ({"momentum": -0.9}, ValueError, "Invalid momentum value: -0.9"),
        ({"dampening": NAN}, ValueError, "Invalid dampening value: nan (expected a finite number)"),
        ({"trust_coeff": -1.0}, ValueError, "Invalid trust_coeff value: -1.0 (expected >= 0)"),
        ({"nesterov": True}, ValueError, NESTEROV),
        ({"nesterov": True, "momentum": 0.9, "dampening": 0.5}, ValueError, NESTEROV),
    ),
    source=Source("timm.optim.Lars", "1.0.31"),
    timed=(
        Timed(1, {"weight_decay": 1e-4}, passes=("gp", "gP")),
        Timed(2, {"weight_decay": 1e-4, "momentum": 0.9}, "-momentum", passes=("gp", "gPM")),
    ),
    drawing=Recipe(
        "cyoptim.Lars([p], lr=0.1, trust_coeff=0.02, always_adapt=True, momentum=0.9)",
        "Without momentum, each step would be a fixed share of the parameter's own length.",
    ),
    valley=Valley({"lr": 1e-3, "momentum": 0.9}),
)
