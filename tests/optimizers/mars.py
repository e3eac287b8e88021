"""MARS: algorithms 2 (AdamW) and 3 (Lion) of Yuan et al. (2024), with the authors' options."""

import inspect
import sys
from unittest import mock

import numpy as np

from tests.support.bad_options import EPS, MOMENTS, NAN
from tests.support.cards import (
    COMPLEX,
    ELEMENT_WISE,
    KERNEL,
    RULE,
    Card,
    Recipe,
    Source,
    Timed,
    Valley,
)


class MARS:
    def __init__(
        self, lr=3e-3, betas=(0.95, 0.99), eps=1e-8, weight_decay=0.0, amsgrad=False, gamma=0.025,
        mars_type="mars-adamw", optimize_1d=False, lr_1d=3e-3, betas_1d=(0.9, 0.95),
        weight_decay_1d=0.1, maximize=False, caution=False,
    ):  # fmt: skip
        self.__dict__.update(locals())
        self.factor = lr_1d / lr if lr else 1.0
        self.t, self.m, self.v, self.top, self.last = {}, {}, {}, {}, {}

    def step(self, params, grads):
        for i, (p, g) in enumerate(zip(params, grads, strict=True)):
            if g is None:
                continue
            g = -g if self.maximize else g
            self.t[i] = self.t.get(i, 0) + 1
            if p.ndim == 2 or self.optimize_1d:
                beta1 = self.betas[0]
                last = self.last.get(i, np.zeros_like(p))
                c = g + self.gamma * beta1 / (1 - beta1) * (g - last)
                c = c / max(1.0, np.sqrt(np.sum(c * c)))
                self.last[i] = g.copy()
                self.move(i, p, g, c, self.lr, self.betas, self.weight_decay, self.mars_type)
            else:
                self.last[i] = np.zeros_like(p)
                lr = self.lr * self.factor
                self.move(i, p, g, g, lr, self.betas_1d, self.weight_decay_1d, "mars-adamw")

    def move(self, i, p, g, c, lr, betas, decay, kind):
        (beta1, beta2), t, zeros = betas, self.t[i], np.zeros_like(p)
        m = self.m[i] = beta1 * self.m.get(i, zeros) + (1 - beta1) * c
        if kind == "mars-lion":
            self.v[i] = zeros
            p[...] = p - lr * (self.cautious(np.sign(m), g) + decay * p)
            return
        v = self.v[i] = beta2 * self.v.get(i, zeros) + (1 - beta2) * c**2
        if self.amsgrad:
            v = self.top[i] = np.maximum(self.top.get(i, zeros), v)
        u = m / (1 - beta1**t) / (np.sqrt(v / (1 - beta2**t)) + self.eps)
        p[...] = p - lr * (self.cautious(u, g) + decay * p)

    def cautious(self, u, g):
        follows = np.sign(u) * np.sign(g) > 0
        return np.where(follows, u, 0.0) / max(np.mean(follows), 1e-3) if self.caution else u


def with_copies(cls):
    """The authors' class, which keeps a reference to the gradient, and fails without any."""

    class MARS(cls):
        def step(self, closure=None):
            params = [p for group in self.param_groups for p in group["params"]]
            if all(p.grad is None for p in params):
                return None
            loss = super().step(closure)
            for p in params:
                if "last_grad" in self.state[p]:
                    self.state[p]["last_grad"] = self.state[p]["last_grad"].clone()
            return loss

    return MARS


def from_zero(cls):
    """timm's class, whose first step is not along the gradient itself: the gradient before it is 0."""
    module = sys.modules[cls.__module__]
    inner = module._mars_single_tensor_step
    names = [*inspect.signature(inner).parameters]

    class Count(int):
        def __eq__(self, other):
            return False

        __hash__ = int.__hash__

    def stepped(*args, **kwargs):
        args = [Count(a) if name == "step" else a for name, a in zip(names, args, strict=False)]
        return inner(*args, **kwargs)

    class Mars(cls):
        def step(self, closure=None):
            with mock.patch.object(module, inner.__name__, stepped):
                return super().step(closure)

    return Mars


CARD = Card(
    "MARS",
    MARS,
    traits=RULE - {ELEMENT_WISE, KERNEL, COMPLEX},
    variants=(
        {"optimize_1d": True},
        {},
        {"lr": 0.01, "lr_1d": 0.02, "betas_1d": (0.8, 0.9), "weight_decay_1d": 0.05},
        {"lr": 0.01, "betas": (0.8, 0.9), "weight_decay": 0.1, "gamma": 0.1, "optimize_1d": True},
        {"lr": 0.01, "amsgrad": True, "eps": 0.01, "weight_decay": 0.1, "maximize": True},
        {"lr": 1e-3, "mars_type": "mars-lion", "weight_decay": 0.1, "optimize_1d": True},
        {"lr": 1e-3, "mars_type": "mars-lion", "gamma": -0.01, "maximize": True},
    ),
    history={"amsgrad": True},
    states=("step", "exp_avg", "exp_avg_sq", "last_grad"),
    more_states={"amsgrad": ("max_exp_avg_sq",)},
    kept={
        "exp_avg": "m",
        "exp_avg_sq": "v",
        "last_grad": "last",
        "max_exp_avg_sq": "top",
    },
    bad=(
        *MOMENTS,
        *EPS,
        ({"gamma": NAN}, ValueError, "Invalid gamma value: nan (expected a finite number)"),
        ({"is_approx": False}, ValueError, "is_approx=False is not supported"),
        ({"mars_type": "mars-adam"}, ValueError, "Invalid mars_type value: 'mars-adam'"),
        ({"mars_type": "mars-shampoo"}, ValueError, "Muon has steps by orthogonal matrices"),
        ({"lr_1d": -1.0}, ValueError, "Invalid lr_1d value: -1.0 (expected >= 0)"),
        ({"betas_1d": (1.0, 0.9)}, ValueError, "Invalid betas_1d at index 0: 1.0 (expected"),
        ({"betas_1d": 0.9}, TypeError, "betas_1d must be a pair of numbers, got 0.9"),
        ({"betas_1d": ("x", 0.9)}, TypeError, "betas_1d[0] must be a number, got str: 'x'"),
        ({"weight_decay_1d": -1.0}, ValueError, "Invalid weight_decay_1d value: -1.0"),
    ),
    source=Source(
        "MARS",
        "4831e28",
        place="AGI-Arena/MARS",
        twin=with_copies,
        removed="it copies the gradient, and skips steps without any",
    ),
    more_sources={
        "timm": Source(
            "timm.optim.Mars",
            "1.0.31",
            twin=from_zero,
            removed="a first step along the gradient itself",
            variants=(
                {"betas": (0.9, 0.99), "optimize_1d": True},
                {"betas": (0.9, 0.99), "optimize_1d": True, "caution": True},
                {
                    "lr": 0.01,
                    "betas": (0.8, 0.9),
                    "weight_decay": 0.1,
                    "gamma": 0.1,
                    "optimize_1d": True,
                    "caution": True,
                },
            ),
        ),
    },
    timed=(Timed(4, {"optimize_1d": True}, passes=("gl", "gPMVL")),),
    drawing=Recipe(
        "cyoptim.MARS([p], lr=0.02)",
        "As AdamW's; where the gradient turns, the difference of two gradients turns it further.",
        shape=(1, 2),
    ),
    valley=Valley({"lr": 0.02, "optimize_1d": True}, 0.999),
)
