"""LAMB: algorithm 2 of You et al. (2020), with the options of timm's ``Lamb``."""

import numpy as np

from tests.support.bad_options import EPS, MOMENTS
from tests.support.cards import (
    ELEMENT_WISE,
    JOINED,
    KERNEL,
    RULE,
    Card,
    Options,
    Recipe,
    Source,
    Timed,
    Valley,
)


class Lamb:
    def __init__(
        self, lr=1e-3, bias_correction=True, betas=(0.9, 0.999), eps=1e-6, weight_decay=0.01,
        grad_averaging=True, max_grad_norm=1.0, trust_clip=False, always_adapt=False,
        decoupled_decay=False, maximize=False, caution=False,
    ):  # fmt: skip
        self.__dict__.update(locals())
        self.t, self.m, self.v = {}, {}, {}

    def step(self, params, grads):
        beta1, beta2 = self.betas
        gain1 = 1 - beta1 if self.grad_averaging else 1.0
        norm = np.sqrt(sum(np.sum(g * g) for g in grads if g is not None))
        clip = max(1.0, norm / self.max_grad_norm) if self.max_grad_norm is not None else 1.0
        for i, (p, g) in enumerate(zip(params, grads, strict=True)):
            if g is None:
                continue
            zeros = np.zeros_like(p)
            g = (-g if self.maximize else g) / (clip if np.isfinite(norm) else norm)
            t = self.t[i] = self.t.get(i, 0) + 1
            m = self.m[i] = beta1 * self.m.get(i, zeros) + gain1 * g
            v = self.v[i] = beta2 * self.v.get(i, zeros) + (1 - beta2) * g**2
            if self.bias_correction:
                m, v = m / (1 - beta1**t), v / (1 - beta2**t)
            u = m / (np.sqrt(v) + self.eps)
            if self.caution:
                follows = np.sign(u) * np.sign(g) > 0
                u = np.where(follows, u, 0.0) / max(np.mean(follows), 1e-3)
            if self.decoupled_decay:
                p[...] = p - self.lr * self.weight_decay * p
            else:
                u = u + self.weight_decay * p
            lengths = np.sqrt(np.sum(p * p)), np.sqrt(np.sum(u * u))
            adapts = (self.weight_decay != 0 or self.always_adapt) and min(lengths) > 0
            ratio = lengths[0] / lengths[1] if adapts else 1.0
            p[...] = p - self.lr * (min(ratio, 1.0) if self.trust_clip else ratio) * u


# Those of timm's class, which has no `maximize`.
SHARED: tuple[Options, ...] = (
    {},
    {"lr": 0.01, "max_grad_norm": None},  # the paper's
    {"lr": 0.01, "max_grad_norm": None, "always_adapt": True, "weight_decay": 0.0},  # optax's
    {"lr": 0.01, "decoupled_decay": True, "grad_averaging": False, "bias_correction": False},
)

CARD = Card(
    "Lamb",
    Lamb,
    traits=RULE - {ELEMENT_WISE, KERNEL} | {JOINED},
    variants=(
        *SHARED,
        {"lr": 0.01, "betas": (0.8, 0.95), "trust_clip": True, "maximize": True},
    ),
    states=("step", "exp_avg", "exp_avg_sq"),
    kept={"exp_avg": "m", "exp_avg_sq": "v"},
    bad=(
        *MOMENTS,
        *EPS,
        ({"max_grad_norm": 0.0}, ValueError, "Invalid max_grad_norm value: 0.0 (expected > 0)"),
    ),
    source=Source(
        "timm.optim.Lamb",
        "1.0.31",
        counts_together=True,
        variants=(
            *SHARED,
            {"lr": 0.01, "weight_decay": 0.1, "caution": True},
            {"lr": 0.01, "betas": (0.8, 0.95), "trust_clip": True, "caution": True},
            {"lr": 0.01, "decoupled_decay": True, "weight_decay": 0.1, "caution": True},
            {"lr": 0.01, "max_grad_norm": None, "weight_decay": 0.0, "caution": True},
        ),
    ),
    timed=(
        Timed(3, passes=("g", "gpMV", "mvP")),
        Timed(3, {"max_grad_norm": None}, "-unclipped", passes=("gpMV", "mvP")),
    ),
    drawing=Recipe(
        "cyoptim.Lamb([p], lr=0.03)",
        "Each step is `lr` of the parameter's own length, whatever the gradient's.",
    ),
    valley=Valley({"lr": 0.02, "weight_decay": 0.0}, 0.9995),
)
