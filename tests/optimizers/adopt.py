"""ADOPT: algorithm 2 of Taniguchi et al. (2024), with the decay of the authors' package."""

import inspect

import numpy as np

from tests.support import draws
from tests.support.bad_options import CAPTURABLE, DIFFERENTIABLE, EPS, MOMENTS
from tests.support.cards import FUSED, RULE, Card, Options, Quotient, Recipe, Source, Timed, Valley


class ADOPT:
    def __init__(
        self, lr=1e-3, betas=(0.9, 0.9999), eps=1e-6, clip_lambda=0.25, weight_decay=0.0,
        decouple=False, maximize=False,
    ):  # fmt: skip
        self.__dict__.update(locals())
        self.t, self.m, self.v = {}, {}, {}

    def step(self, params, grads):
        beta1, beta2 = self.betas
        for i, (p, g) in enumerate(zip(params, grads, strict=True)):
            if g is None:
                continue
            g = -g if self.maximize else g
            if self.weight_decay and not self.decouple:
                g = g + self.weight_decay * p
            t = self.t[i] = self.t.get(i, 0) + 1
            if t == 1:
                self.m[i], self.v[i] = np.zeros_like(p), g**2
                continue
            if self.weight_decay and self.decouple:
                p[...] = p - self.lr * self.weight_decay * p
            u = g / np.maximum(np.sqrt(self.v[i]), self.eps)
            if self.clip_lambda is not None:
                u = np.clip(u, -((t - 1) ** self.clip_lambda), (t - 1) ** self.clip_lambda)
            self.m[i] = beta1 * self.m[i] + (1 - beta1) * u
            p[...] = p - self.lr * self.m[i]
            self.v[i] = beta2 * self.v[i] + (1 - beta2) * g**2


def with_powers(cls):
    """The package's class, whose `clip_lambda` is a function, and a tensor of one float32 with foreach."""

    class Powers(cls):
        def __init__(self, params, clip_lambda=0.25, **options):
            bound = None if clip_lambda is None else lambda step: step**clip_lambda
            super().__init__(params, clip_lambda=bound, **{"foreach": False, **options})

    Powers.__init__.__signature__ = inspect.signature(cls)
    return Powers


def gain(options: Options) -> float:
    return 1 - float(options.get("betas", (0.9, 0.9999))[1])


CARD = Card(
    "ADOPT",
    ADOPT,
    traits=RULE | {FUSED},
    variants=(
        {},
        {"lr": 0.05, "betas": (0.8, 0.95), "eps": 1e-3},
        {"weight_decay": 0.1},
        {"lr": 0.01, "weight_decay": 0.1, "decouple": True},
        {"clip_lambda": None, "maximize": True, "weight_decay": 0.1},
        {"clip_lambda": 0.0, "betas": (0.0, 0.9)},
    ),
    states=("step", "exp_avg", "exp_avg_sq"),
    kept={"exp_avg": "m", "exp_avg_sq": "v"},
    waits=1,
    bad=(
        *MOMENTS,
        *EPS,
        *CAPTURABLE,
        *DIFFERENTIABLE,
        ({"clip_lambda": abs}, TypeError, "clip_lambda must be a number c, for the bound step**c,"),
        ({"clip_lambda": "t"}, TypeError, "clip_lambda must be a number, got str: 't'"),
        ({"clip_lambda": np.inf}, ValueError, "Invalid clip_lambda value: inf"),
    ),
    # A bound hides what is not finite.
    quotient=Quotient(
        gain,
        (
            {"clip_lambda": None},
            {"clip_lambda": None, "betas": (0.9, 0.999)},
            {"clip_lambda": None, "betas": (0.0, 0.0)},
        ),
        steps_before=1,
    ),
    draw=lambda rng: {
        **draws.averages(rng),
        "clip_lambda": draws.pick(rng, None, 0.0, 0.25, 0.25, 1.0),
        "decouple": draws.chance(rng, 0.4),
    },
    source=Source(
        "adopt.ADOPT",
        "0.1.0",
        place="torch-adopt",
        twin=with_powers,
        removed="`clip_lambda` as a function",
    ),
    timed=(Timed(3),),
    drawing=Recipe(
        "cyoptim.ADOPT([p], lr=0.1, betas=(0.9, 0.99))",
        "It knows the size of a gradient only from those before: the first step moves nothing.",
    ),
    valley=Valley({"lr": 0.02, "betas": (0.9, 0.99)}, 0.9995),
)
