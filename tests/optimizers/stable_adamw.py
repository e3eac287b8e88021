"""StableAdamW: algorithm 2 of Wortsman et al. (2023), with the options of torch-optimi's class."""

import numpy as np

from tests.support.bad_options import EPS, MOMENTS
from tests.support.cards import ELEMENT_WISE, KERNEL, RULE, Card, Recipe, Source, Timed, Valley


class StableAdamW:
    def __init__(
        self, lr=1e-3, betas=(0.9, 0.99), weight_decay=1e-2, eps=1e-6, decouple_lr=False,
        max_lr=None, maximize=False,
    ):  # fmt: skip
        self.__dict__.update(locals())
        if decouple_lr and max_lr is None:
            self.max_lr = lr
        self.t, self.m, self.v = {}, {}, {}

    def step(self, params, grads):
        for i, (p, g) in enumerate(zip(params, grads, strict=True)):
            if g is None:
                continue
            g = -g if self.maximize else g
            t = self.t[i] = self.t.get(i, 0) + 1
            beta1, beta2 = (b * (1 - b ** (t - 1)) / (1 - b**t) for b in self.betas)
            zeros = np.zeros_like(p)
            m = self.m[i] = beta1 * self.m.get(i, zeros) + (1 - beta1) * g
            square = np.abs(g) ** 2 if np.iscomplexobj(g) else g**2
            v = self.v[i] = beta2 * self.v.get(i, zeros) + (1 - beta2) * square
            growth = np.sqrt(np.mean(square / np.maximum(v, self.eps**2))) if p.size else 1.0
            lr = self.lr / max(1.0, growth)
            decay = lr / self.max_lr if self.decouple_lr else lr
            p[...] = p - decay * self.weight_decay * p
            p[...] = p - lr * m / (np.sqrt(v) + self.eps)


CARD = Card(
    "StableAdamW",
    StableAdamW,
    traits=RULE - {ELEMENT_WISE, KERNEL},
    variants=(
        {"lr": 1e-3},
        {"lr": 0.01, "betas": (0.8, 0.9), "weight_decay": 0.1},
        {"lr": 0.01, "eps": 0.1, "weight_decay": 0.0, "maximize": True},
        {"lr": 0.01, "decouple_lr": True, "weight_decay": 1e-4},
        {"lr": 0.01, "decouple_lr": True, "max_lr": 0.02, "weight_decay": 5e-4},
    ),
    states=("step", "exp_avg", "exp_avg_sq"),
    kept={"exp_avg": "m", "exp_avg_sq": "v"},
    bad=(
        *MOMENTS,
        *EPS,
        ({"max_lr": 0.0}, ValueError, "Invalid max_lr value: 0.0 (expected > 0)"),
        ({"kahan_sum": True}, TypeError, "unexpected keyword argument 'kahan_sum'"),
    ),
    source=Source("optimi.StableAdamW", "0.3.3", counts_together=True, place="torch-optimi"),
    timed=(Timed(3, passes=("gMV", "mvP")),),
    drawing=Recipe(
        "cyoptim.StableAdamW([p], lr=0.03)",
        "As AdamW's, but for shorter steps where the gradient suddenly grows.",
    ),
    valley=Valley({"lr": 0.02, "weight_decay": 0.0}),
)
