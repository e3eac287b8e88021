"""AdaBelief: algorithm 2 of Zhuang et al. (2020), with the options of adabelief-pytorch."""

import numpy as np

from tests.support.bad_options import EPS, MOMENTS
from tests.support.cards import RULE, Card, Recipe, Source, Timed, Valley


class AdaBelief:
    def __init__(
        self, lr=1e-3, betas=(0.9, 0.999), eps=1e-16, weight_decay=0, amsgrad=False,
        weight_decouple=True, fixed_decay=False, rectify=True, degenerated_to_sgd=True,
        print_change_log=True,
        maximize=False,
    ):  # fmt: skip
        self.__dict__.update(locals())
        self.t, self.m, self.s, self.s_max = {}, {}, {}, {}

    def step(self, params, grads):
        beta1, beta2 = self.betas
        rho_inf = 2 / (1 - beta2) - 1
        for i, (p, g) in enumerate(zip(params, grads, strict=True)):
            if g is None:
                continue
            zeros = np.zeros_like(p)
            g = -g if self.maximize else g
            if self.weight_decay and self.weight_decouple:
                p[...] = p - (1 if self.fixed_decay else self.lr) * self.weight_decay * p
            elif self.weight_decay:
                g = g + self.weight_decay * p
            t = self.t[i] = self.t.get(i, 0) + 1
            m = self.m[i] = beta1 * self.m.get(i, zeros) + (1 - beta1) * g
            s = beta2 * self.s.get(i, zeros) + (1 - beta2) * (g - m) ** 2 + self.eps
            self.s[i] = s
            if self.amsgrad:
                self.s_max[i] = np.maximum(self.s_max.get(i, zeros), s)
            m_hat = m / (1 - beta1**t)
            rho = rho_inf - 2 * t * beta2**t / (1 - beta2**t)
            if not self.rectify:
                s_hat = (self.s_max[i] if self.amsgrad else s) / (1 - beta2**t)
                p[...] = p - self.lr * m_hat / (np.sqrt(s_hat) + self.eps)
            elif rho >= 5:
                r = np.sqrt((rho - 4) * (rho - 2) * rho_inf / ((rho_inf - 4) * (rho_inf - 2) * rho))
                p[...] = p - self.lr * r * m_hat * np.sqrt(1 - beta2**t) / (np.sqrt(s) + self.eps)
            elif self.degenerated_to_sgd:
                p[...] = p - self.lr * m_hat


CARD = Card(
    "AdaBelief",
    AdaBelief,
    traits=RULE,
    variants=(
        {},
        {"lr": 0.01, "rectify": False},
        {"lr": 0.05, "rectify": False, "betas": (0.8, 0.95), "eps": 1e-8, "maximize": True},
        {"weight_decay": 0.1},
        {"weight_decay": 0.1, "weight_decouple": False},
        {"weight_decay": 0.01, "fixed_decay": True, "rectify": False},
        {"amsgrad": True, "rectify": False, "betas": (0.9, 0.95)},
        {"amsgrad": True, "degenerated_to_sgd": False, "print_change_log": False},
        {"betas": (0.9, 0.5), "degenerated_to_sgd": False, "weight_decay": 0.1},  # decays alone
    ),
    states=("step", "exp_avg", "exp_avg_var"),
    more_states={"amsgrad": ("max_exp_avg_var",)},
    kept={"exp_avg": "m", "exp_avg_var": "s", "max_exp_avg_var": "s_max"},
    history={"amsgrad": True},
    bad=(*MOMENTS, *EPS),
    source=Source("adabelief_pytorch.AdaBelief", "0.2.1"),
    timed=(Timed(3),),
    drawing=Recipe(
        "cyoptim.AdaBelief([p], lr=0.1, rectify=False)",
        "Where the gradient is as its average predicts, steps are longer than Adam's.",
    ),
    valley=Valley({"lr": 0.02, "eps": 1e-8, "rectify": False}),
)
