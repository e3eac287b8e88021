"""AdamP: algorithm 3 of Heo et al. (2021), and the authors' test of rows and of the whole."""

import numpy as np

from tests.support import draws
from tests.support.bad_options import EPS, MOMENTS
from tests.support.cards import (
    COMPLEX,
    ELEMENT_WISE,
    KERNEL,
    RULE,
    Card,
    Quotient,
    Recipe,
    Source,
    Timed,
    Valley,
)


def followed(u, g):
    follows = np.sign(u) * np.sign(g) > 0
    return np.where(follows, u, 0.0) / max(np.mean(follows), 1e-3)


def projected(p, g, u, delta, eps, caution=False):
    """The step without its part along the parameter, and whether there was one to be taken out; and the cautious step,
    with timm's projections of the gradient and of what is left."""
    for shape in ((len(p), -1), (1, -1)) if p.ndim > 1 else ():
        rows, grads, steps = (x.reshape(shape) for x in (p, g, u))
        length = np.sqrt(np.sum(rows * rows, axis=1, keepdims=True))
        lengths = np.maximum(length, eps) * np.maximum(
            np.sqrt(np.sum(grads * grads, axis=1, keepdims=True)), eps
        )
        dot = np.sum(grads * rows, axis=1, keepdims=True)
        cosine = np.abs(np.divide(dot, lengths, out=np.zeros_like(dot), where=lengths != 0))
        if cosine.max() < delta / np.sqrt(rows.shape[1]):
            unit = np.divide(rows, length + eps, out=np.zeros_like(rows), where=length + eps != 0)

            def across(x, unit=unit):
                return x - unit * np.sum(unit * x, axis=1, keepdims=True)

            plain = across(steps)
            step = across(followed(plain, across(grads))) if caution else plain
            return plain.reshape(p.shape), True, step.reshape(p.shape)
    return u, False, followed(u, g) if caution else u


class AdamP:
    def __init__(
        self, lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0, delta=0.1, wd_ratio=0.1,
        nesterov=False, maximize=False, caution=False,
    ):  # fmt: skip
        self.__dict__.update(locals())
        self.t, self.m, self.v = {}, {}, {}

    def step(self, params, grads):
        beta1, beta2 = self.betas
        for i, (p, g) in enumerate(zip(params, grads, strict=True)):
            if g is None:
                continue
            zeros = np.zeros_like(p)
            g = -g if self.maximize else g
            t = self.t[i] = self.t.get(i, 0) + 1
            m = self.m[i] = beta1 * self.m.get(i, zeros) + (1 - beta1) * g
            v = self.v[i] = beta2 * self.v.get(i, zeros) + (1 - beta2) * g**2
            m = beta1 * m + (1 - beta1) * g if self.nesterov else m
            u = m / (np.sqrt(v / (1 - beta2**t)) + self.eps)
            _, is_projected, u = projected(p, g, u, self.delta, self.eps, self.caution)
            ratio = self.wd_ratio if is_projected else 1
            p[...] = (1 - self.lr * self.weight_decay * ratio) * p - self.lr / (1 - beta1**t) * u


def drawn(rng):
    return {
        **draws.averages(rng),
        "eps": float(draws.pick(rng, 1e-8, 1e-6)),
        "delta": float(draws.pick(rng, 0, 0.1, 1, 10)),
        "nesterov": draws.chance(rng, 0.4),
    }


PROJECTION = (
    ({"delta": -0.1}, ValueError, "Invalid delta value: -0.1"),
    ({"wd_ratio": -0.1}, ValueError, "Invalid wd_ratio value: -0.1"),
)
CARD = Card(
    "AdamP",
    AdamP,
    traits=RULE - {ELEMENT_WISE, KERNEL, COMPLEX},
    variants=(
        {"lr": 0.01, "delta": 0.8, "weight_decay": 0.1, "wd_ratio": 0.5, "nesterov": True},
        {"lr": 0.01, "delta": 10.0, "weight_decay": 0.1},  # always by rows
        {},
        {"lr": 0.01, "delta": 0.8, "betas": (0.8, 0.95)},
        {"lr": 0.01, "delta": 0.8, "weight_decay": 0.1, "maximize": True},
        {"lr": 0.01, "eps": 0.1, "delta": 10.0},
    ),
    states=("step", "exp_avg", "exp_avg_sq"),
    kept={"exp_avg": "m", "exp_avg_sq": "v"},
    bad=(*MOMENTS, *EPS, *PROJECTION),
    quotient=Quotient(
        lambda options: 1 - float(options.get("betas", (0.9, 0.999))[1]),
        ({}, {"betas": (0.9, 0.99999)}, {"nesterov": True}),
    ),
    draw=drawn,
    source=Source("adamp.AdamP", "0.3.0"),
    more_sources={
        "timm": Source(
            "timm.optim.AdamP",
            "1.0.31",
            variants=(
                {"caution": True},
                {"lr": 0.01, "delta": 10.0, "weight_decay": 0.1, "caution": True},
                {"lr": 0.01, "delta": 0.8, "betas": (0.8, 0.95), "nesterov": True, "caution": True},
            ),
        ),
    },
    timed=(Timed(3), Timed(3, suffix="-matrices", passes=("gpMV", "mvP"), matrices=True)),
    drawing=Recipe(
        "cyoptim.AdamP([p], lr=0.1)",
        "A matrix of one row. Where the gradient is orthogonal to the parameter, so is the step.",
        shape=(1, 2),
    ),
    valley=Valley({"lr": 0.02}),
)
