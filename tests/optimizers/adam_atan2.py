"""Adam-atan2: Everett et al. (2024), section 4.3, with the options of adam-atan2-pytorch.

Cautious steps, which take a mean over a parameter, are tested in tests/algorithms/test_adam_atan2.py.
"""

import numpy as np

from tests.support.bad_options import MOMENTS
from tests.support.cards import RULE, Card, Options, Recipe, Source, Timed, Valley


class AdamAtan2:
    def __init__(
        self, lr=1e-4, betas=(0.9, 0.99), weight_decay=0.0, regen_reg_rate=0.0, decoupled_wd=False,
        cautious_wd=False, cautious_factor=1.0, a=1.27, b=1.0, maximize=False,
    ):  # fmt: skip
        self.__dict__.update(locals())
        if decoupled_wd:
            self.weight_decay, self.regen_reg_rate = weight_decay / lr, regen_reg_rate / lr
        self.t, self.m, self.v, self.first = {}, {}, {}, {}

    def step(self, params, grads):
        beta1, beta2 = self.betas
        for i, (p, g) in enumerate(zip(params, grads, strict=True)):
            if g is None:
                continue
            zeros = np.zeros_like(p)
            g = -g if self.maximize else g
            if self.regen_reg_rate and i in self.first:
                p[...] = p + self.lr * self.regen_reg_rate * (self.first[i] - p)
            elif self.regen_reg_rate:
                self.first[i] = p.copy()
            t = self.t[i] = self.t.get(i, 0) + 1
            m = self.m[i] = beta1 * self.m.get(i, zeros) + (1 - beta1) * g
            v = self.v[i] = beta2 * self.v.get(i, zeros) + (1 - beta2) * g**2
            u = np.arctan2(m / (1 - beta1**t), np.sqrt(v * (self.b**2 / (1 - beta2**t))))
            if self.cautious_factor < 1 and p.size:
                factors = np.where(u * g > 0, 1.0, self.cautious_factor)
                u = u * factors / max(np.mean(factors), 1e-5)
            decays = u * p > 0 if self.cautious_wd else np.ones_like(p, bool)
            p[...] = np.where(decays, (1 - self.lr * self.weight_decay) * p, p)
            p[...] = p - self.lr * self.a * u


VARIANTS: tuple[Options, ...] = (
    {},
    {"lr": 0.05, "betas": (0.8, 0.95), "a": 1.0, "b": 2.0},
    {"lr": 0.01, "weight_decay": 0.1},
    {"lr": 0.01, "weight_decay": 0.1, "cautious_wd": True, "maximize": True},
    {"lr": 0.01, "weight_decay": 0.001, "decoupled_wd": True},
    {"lr": 0.01, "regen_reg_rate": 0.5},
    {"lr": 0.01, "regen_reg_rate": 0.005, "decoupled_wd": True, "maximize": True},
)


def draw(rng: np.random.Generator) -> Options:
    """Without `decoupled_wd`, which divides by the rate that the optimizer, not the group, began with."""
    plain = [options for options in VARIANTS if "decoupled_wd" not in options]
    return plain[int(rng.integers(len(plain)))]


CARD = Card(
    "AdamAtan2",
    AdamAtan2,
    traits=RULE,
    variants=VARIANTS,
    draw=draw,
    states=("step", "exp_avg", "exp_avg_sq"),
    more_states={"regen_reg_rate": ("param_init",)},
    kept={"exp_avg": "m", "exp_avg_sq": "v", "param_init": "first"},
    history={"regen_reg_rate": 0.1},
    averages=("param_init",),
    bad=(
        *MOMENTS,
        (
            {"regen_reg_rate": -0.1},
            ValueError,
            "Invalid regen_reg_rate value: -0.1 (expected >= 0)",
        ),
        (
            {"regen_reg_rate": 0.1, "weight_decay": 0.1},
            ValueError,
            "weight_decay 0.1 and regen_reg_rate 0.1 exclude each other: set one of them to 0",
        ),
        ({"cautious_factor": 1.5}, ValueError, "Invalid cautious_factor value: 1.5 (expected 0"),
        ({"a": float("inf")}, ValueError, "Invalid a value: inf (expected a finite number)"),
        ({"b": float("nan")}, ValueError, "Invalid b value: nan (expected a finite number)"),
    ),
    source=Source("adam_atan2_pytorch.AdamAtan2", "0.4.1", place="adam-atan2-pytorch"),
    timed=(Timed(3), Timed(3, {"cautious_factor": 0.0}, "-cautious", ("gMV", "gmvP"))),
    drawing=Recipe(
        "cyoptim.AdamAtan2([p], lr=0.1)",
        "It goes as Adam does, without an `eps`; no step is longer than twice `lr`.",
    ),
    valley=Valley({"lr": 0.02}, 0.9995),
)
