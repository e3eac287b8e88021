"""SparseAdam in float64, from the formula: masked Adam."""

from __future__ import annotations

from typing import Any

import numpy as np

from tests.optimizers.adam import gain
from tests.support.bad_options import BETAS, BETAS_NO_PAIR, COMMON, EPS, RATE
from tests.support.cards import (
    CHECKED,
    ELEMENT_WISE,
    KERNEL,
    NATIVE,
    SAME_BITS,
    SPARSE,
    Card,
    Quotient,
    Recipe,
    Valley,
)


class SparseAdam:
    def __init__(self, lr: float = 1e-3, betas: Any = (0.9, 0.999), eps: float = 1e-8, maximize: bool = False):  # fmt: skip
        self.lr, self.betas, self.eps, self.maximize = lr, betas, eps, maximize
        self.t: dict[int, int] = {}
        self.m: dict[int, Any] = {}
        self.v: dict[int, Any] = {}

    def step(self, params: list[Any], grads: list[Any]) -> None:
        """Each gradient is None, an array, or an array and the mask of its entries."""
        for i, (p, entry) in enumerate(zip(params, grads, strict=True)):
            if entry is None:
                continue
            g, mask = entry if isinstance(entry, tuple) else (entry, True)
            g = -g if self.maximize else g
            t = self.t[i] = self.t.get(i, 0) + 1
            m, v = self.m.get(i, np.zeros_like(p)), self.v.get(i, np.zeros_like(p))
            beta1, beta2 = self.betas
            m = self.m[i] = np.where(mask, beta1 * m + (1 - beta1) * g, m)
            v = self.v[i] = np.where(mask, beta2 * v + (1 - beta2) * g**2, v)
            size = self.lr * np.sqrt(1 - beta2**t) / (1 - beta1**t)
            p -= np.where(mask, size * m / (np.sqrt(v) + self.eps), 0)


VARIANTS = (
    {"lr": 0.05},
    {"lr": 0.05, "betas": (0.8, 0.95), "eps": 1e-3, "maximize": True},
)

CARD = Card(
    "SparseAdam",
    SparseAdam,
    traits=frozenset({ELEMENT_WISE, SPARSE, NATIVE, KERNEL, SAME_BITS, CHECKED}),
    torch="SparseAdam",
    variants=({}, *VARIANTS),
    sparse_variants=VARIANTS,
    states=("step", "exp_avg", "exp_avg_sq"),
    kept={"exp_avg": "m", "exp_avg_sq": "v"},
    bad_as_torch=(
        *RATE,
        ({"lr": 0.0}, ValueError, "Invalid learning rate: 0.0"),
        ({"lr": -1e-2}, ValueError, "Invalid learning rate: -0.01"),
        *EPS,
        ({"eps": 0.0}, ValueError, "Invalid epsilon value: 0.0"),
        *BETAS,
    ),
    bad=(*COMMON, *BETAS_NO_PAIR),
    quotient=Quotient(gain, least=5e-324),
    drawing=Recipe(
        "cyoptim.SparseAdam([p], lr=0.05)",
        "Each gradient names one row, in turn: only that coordinate moves.",
        shape=(2, 1),
        sparse=True,
    ),
    valley=Valley({"lr": 0.02}),
)
