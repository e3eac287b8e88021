"""signSGD and Signum: algorithms 1 and 2 of Bernstein et al. (2018), with an average as momentum."""

import numpy as np

from tests.support.bad_options import COMMON, DECAY, RATE
from tests.support.cards import COMPLEX, RULE, Card, Recipe, Source, Timed, Valley


class SignSGD:
    def __init__(
        self, lr=1e-3, momentum=0.9, weight_decay=0.0, weight_decouple=True, maximize=False
    ):
        self.__dict__.update(locals())
        self.b = {}

    def step(self, params, grads):
        for i, (p, g) in enumerate(zip(params, grads, strict=True)):
            if g is None:
                continue
            g = -g if self.maximize else g
            if self.weight_decay and self.weight_decouple:
                p[...] = p - self.lr * self.weight_decay * p
            elif self.weight_decay:
                g = g + self.weight_decay * p
            if self.momentum:
                before = self.b.get(i, np.zeros_like(p))
                g = self.b[i] = self.momentum * before + (1 - self.momentum) * g
            p[...] = p - self.lr * np.sign(g)


CARD = Card(
    "SignSGD",
    SignSGD,
    traits=RULE - {COMPLEX},
    variants=(
        {},
        {"momentum": 0.0},
        {"lr": 0.01, "momentum": 0.5, "weight_decay": 0.1},
        {"lr": 0.01, "weight_decay": 0.1, "weight_decouple": False, "maximize": True},
        {"lr": 0.01, "momentum": 0.0, "weight_decay": 0.1, "maximize": True},
        {"lr": 0.01, "momentum": 0.0, "weight_decay": 0.1, "weight_decouple": False},
    ),
    states=(),
    more_states={"momentum": ("momentum_buffer",)},
    kept={"momentum_buffer": "b"},
    bad=(
        *RATE,
        *DECAY,
        *COMMON,
        (
            {"momentum": -0.1},
            ValueError,
            "Invalid momentum value: -0.1 (expected 0 <= momentum < 1)",
        ),
        ({"momentum": 1.0}, ValueError, "Invalid momentum value: 1.0 (expected 0 <= momentum < 1)"),
    ),
    source=Source("pytorch_optimizer.SignSGD", "4.1.0", place="pytorch_optimizer"),
    timed=(Timed(2), Timed(1, {"momentum": 0}, "-plain")),
    drawing=Recipe(
        "cyoptim.SignSGD([p], lr=0.02)",
        "Both coordinates go exactly `lr` a step, wherever the gradient's average points.",
    ),
    valley=Valley({"lr": 0.02}, 0.995),
)
