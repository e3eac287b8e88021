"""NovoGrad: algorithm 1 of Ginsburg et al. (2019), with the options of timm's ``NvNovoGrad``."""

from contextlib import contextmanager

import numpy as np

from tests.support.bad_options import EPS, MOMENTS
from tests.support.cards import (
    ELEMENT_WISE,
    KERNEL,
    RULE,
    Card,
    Recipe,
    Source,
    Timed,
    Valley,
)


class NovoGrad:
    def __init__(
        self, lr=1e-3, betas=(0.95, 0.98), eps=1e-8, weight_decay=0, grad_averaging=False,
        amsgrad=False, decoupled_decay=False, maximize=False,
    ):  # fmt: skip
        self.__dict__.update(locals())
        self.m, self.v, self.top = {}, {}, {}

    def step(self, params, grads):
        beta1, beta2 = self.betas
        gain = 1 - beta1 if self.grad_averaging else 1.0
        for i, (p, g) in enumerate(zip(params, grads, strict=True)):
            if g is None:
                continue
            square = np.sum(np.abs(g) ** 2)
            v = self.v.get(i, 0.0)
            v = self.v[i] = square if v == 0 else beta2 * v + (1 - beta2) * square
            if self.amsgrad:
                v = self.top[i] = np.maximum(self.top.get(i, 0.0), v)
            d = (-g if self.maximize else g) / (np.sqrt(v) + self.eps)
            if self.decoupled_decay:
                p[...] = p - self.lr * self.weight_decay * p
            else:
                d = d + self.weight_decay * p
            m = self.m[i] = beta1 * self.m.get(i, np.zeros_like(p)) + gain * d
            p[...] = p - self.lr * m


def in_float64(cls):
    """timm's class, which keeps v in torch's default dtype."""

    @contextmanager
    def default_float64():
        import torch

        before = torch.get_default_dtype()
        torch.set_default_dtype(torch.float64)
        try:
            yield
        finally:
            torch.set_default_dtype(before)

    class NvNovoGrad(cls):
        def step(self, closure=None):
            with default_float64():
                return super().step(closure)

        def load_state_dict(self, state_dict):
            with default_float64():
                super().load_state_dict(state_dict)

    return NvNovoGrad


CARD = Card(
    "NovoGrad",
    NovoGrad,
    traits=RULE - {ELEMENT_WISE, KERNEL},
    variants=(
        {},
        {"lr": 0.01, "weight_decay": 0.1},
        {"lr": 0.02, "betas": (0.9, 0.5), "grad_averaging": True, "amsgrad": True},
        {"lr": 0.01, "weight_decay": 0.1, "decoupled_decay": True, "maximize": True},
        {
            "lr": 0.01,
            "betas": (0.8, 0.25),
            "eps": 0.1,
            "weight_decay": 0.01,
            "grad_averaging": True,
        },
    ),
    history={"amsgrad": True},
    states=("step", "exp_avg", "exp_avg_sq"),
    more_states={"amsgrad": ("max_exp_avg_sq",)},
    doubles=("exp_avg_sq", "max_exp_avg_sq"),
    state_shapes={"exp_avg_sq": (), "max_exp_avg_sq": ()},
    kept={"exp_avg": "m", "exp_avg_sq": "v", "max_exp_avg_sq": "top"},
    bad=(*MOMENTS, *EPS),
    source=Source(
        "timm.optim.NvNovoGrad",
        "1.0.31",
        twin=in_float64,
        removed="its average of squares is float64, not float32",
    ),
    timed=(Timed(2, passes=("g", "gPM")),),
    drawing=Recipe(
        "cyoptim.NovoGrad([p], lr=0.002)",
        "The gradient's direction alone counts, so the steps stay of one size.",
    ),
    valley=Valley({"lr": 0.002}, 0.999),
)
