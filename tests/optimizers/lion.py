"""Lion: program 1 of Chen et al. (2023)."""

from typing import Any
from unittest.mock import patch

import numpy as np

from tests.support.bad_options import MOMENTS
from tests.support.cards import COMPLEX, RULE, Card, Recipe, Source, Timed, Valley


class Lion:
    def __init__(self, lr=1e-4, betas=(0.9, 0.99), weight_decay=0.0, maximize=False):
        self.lr, self.betas, self.weight_decay, self.maximize = lr, betas, weight_decay, maximize
        self.m = {}

    def step(self, params, grads):
        beta1, beta2 = self.betas
        for i, (p, g) in enumerate(zip(params, grads, strict=True)):
            if g is None:
                continue
            g = -g if self.maximize else g
            m = self.m.get(i, np.zeros_like(p))
            update = np.sign(beta1 * m + (1 - beta1) * g) + self.weight_decay * p
            p[...] = p - self.lr * update
            self.m[i] = beta2 * m + (1 - beta2) * g


def cautious_in_decay_alone(cls: Any) -> Any:
    """Its class without the scale of a mask, and with a mask of decay in float64."""
    import torch

    class Twin(cls):  # type: ignore[misc]
        def __init__(self, params: Any, lr: float, weight_decay: float, cautious_wd: bool) -> None:
            super().__init__(
                params, lr, weight_decay=weight_decay, cautious_wd=cautious_wd, cautious_factor=1.0
            )

        def step(self) -> None:  # type: ignore[override]
            with patch.object(torch.Tensor, "float", torch.Tensor.double):
                super().step()

    return Twin


CARD = Card(
    "Lion",
    Lion,
    traits=RULE - {COMPLEX},
    variants=({}, {"betas": (0.8, 0.95)}, {"lr": 0.01, "weight_decay": 0.1, "maximize": True}),
    states=("exp_avg",),
    kept={"exp_avg": "m"},
    bad=MOMENTS,
    source=Source("lion_pytorch.Lion", "0.2.5"),
    more_sources={
        "timm": Source(
            "timm.optim.Lion",
            "1.0.31",
            place="timm",
            variants=(
                {"lr": 0.01, "caution": True},
                {
                    "lr": 0.01,
                    "betas": (0.8, 0.95),
                    "weight_decay": 0.1,
                    "maximize": True,
                    "caution": True,
                },
            ),
        ),
        "lion_pytorch": Source(
            "lion_pytorch.cautious_lion.Lion",
            "0.2.5",
            place="lion-pytorch",
            twin=cautious_in_decay_alone,
            removed="its mask of decay is not rounded to float32",
            variants=({"lr": 0.01, "weight_decay": 0.1, "cautious_wd": True},),
        ),
    },
    timed=(Timed(2),),
    drawing=Recipe(
        "cyoptim.Lion([p], lr=0.02)",
        "Both coordinates go exactly `lr` a step; it circles until a schedule takes the rate down.",
    ),
    valley=Valley({"lr": 0.02}, 0.995),
)
