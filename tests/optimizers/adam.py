"""Adam, algorithm 1 of Kingma & Ba (2015); AMSGrad, algorithm 2 of Reddi et al. (2018), with
Adam's bias correction."""

import numpy as np

from tests.support import draws
from tests.support.bad_options import (
    BETAS,
    BETAS_NO_PAIR,
    CAPTURABLE,
    COMMON_OF_TORCH,
    DECAY,
    DECAY_NAN,
    EPS,
    FUSED_AND_OTHERS,
    RATE,
)
from tests.support.cards import FUSED, RULE, Card, Options, Quotient, Recipe, Source, Timed, Valley


class Adam:
    def __init__(
        self,
        lr=1e-3,
        betas=(0.9, 0.999),
        eps=1e-8,
        weight_decay=0,
        amsgrad=False,
        maximize=False,
        decoupled_weight_decay=False,
    ):
        self.lr, self.betas, self.eps = lr, betas, eps
        self.weight_decay, self.amsgrad, self.maximize = weight_decay, amsgrad, maximize
        self.decoupled = decoupled_weight_decay
        self.t, self.m, self.v, self.v_max = {}, {}, {}, {}

    def step(self, params, grads):
        beta1, beta2 = self.betas
        for i, (p, g) in enumerate(zip(params, grads, strict=True)):
            if g is None:
                continue
            zeros = np.zeros_like(p)
            g = -g if self.maximize else g
            t = self.t[i] = self.t.get(i, 0) + 1
            if self.weight_decay and self.decoupled:
                p[...] = p - self.lr * self.weight_decay * p
            elif self.weight_decay:
                g = g + self.weight_decay * p
            m = self.m[i] = beta1 * self.m.get(i, zeros) + (1 - beta1) * g
            v = self.v[i] = beta2 * self.v.get(i, zeros) + (1 - beta2) * g**2
            if self.amsgrad:
                v = self.v_max[i] = np.maximum(self.v_max.get(i, zeros), v)
            m_hat = m / (1 - beta1**t)
            v_hat = v / (1 - beta2**t)
            p[...] = p - self.lr * m_hat / (np.sqrt(v_hat) + self.eps)


VARIANTS: tuple[Options, ...] = (
    {},
    {"lr": 0.05, "betas": (0.8, 0.95), "eps": 1e-6},
    {"weight_decay": 0.1},
    {"amsgrad": True},
    {"amsgrad": True, "weight_decay": 0.1, "maximize": True},
    {"maximize": True},
    {"betas": (0.0, 0.9)},
    {"lr": 0.0},
)
STATES = {
    "states": ("step", "exp_avg", "exp_avg_sq"),
    "more_states": {"amsgrad": ("max_exp_avg_sq",)},
    "kept": {"exp_avg": "m", "exp_avg_sq": "v", "max_exp_avg_sq": "v_max"},
    "history": {"amsgrad": True},
}
REFUSALS = {
    "bad_as_torch": (*RATE, *DECAY, *FUSED_AND_OTHERS, *EPS, *BETAS),
    "bad": (*COMMON_OF_TORCH, *DECAY_NAN, *CAPTURABLE, *BETAS_NO_PAIR),
}


def gain(options: Options) -> float:
    return 1 - float(options.get("betas", (0.9, 0.999))[1])


CARD = Card(
    "Adam",
    Adam,
    traits=RULE | {FUSED},
    torch="Adam",
    variants=(
        *VARIANTS,
        {"decoupled_weight_decay": True, "weight_decay": 0.1},
        {"decoupled_weight_decay": True, "weight_decay": 0.1, "amsgrad": True},
    ),
    **STATES,
    **REFUSALS,
    quotient=Quotient(
        gain,
        (
            {},
            {"betas": (0.9, 0.99999)},
            {"betas": (0.0, 0.0)},
            {"amsgrad": True, "maximize": True},
        ),
    ),
    draw=lambda rng: {**draws.adam(rng), **draws.decoupled(rng)},
    more_sources={
        "timm": Source(
            "timm.optim.AdamWLegacy",
            "1.0.31",
            place="timm",
            variants=(
                {"weight_decay": 0.0, "caution": True},
                {"weight_decay": 0.0, "amsgrad": True, "maximize": True, "caution": True},
            ),
        ),
    },
    timed=(Timed(3),),
    drawing=Recipe(
        "cyoptim.Adam([p], lr=0.1)",
        "Each coordinate goes about `lr` a step, however steep or flat it is.",
    ),
    valley=Valley({"lr": 0.02}),
)
