"""SparseAdam in float64, from the formula: masked Adam."""

from __future__ import annotations

from typing import Any

import numpy as np


class SparseAdam:
    def __init__(self, lr: float = 1e-3, betas: Any = (0.9, 0.999), eps: float = 1e-8, maximize: bool = False):  # fmt: skip
        self.lr, self.betas, self.eps, self.maximize = lr, betas, eps, maximize
        self.state: dict[int, Any] = {}

    def step(self, params: list[Any], grads: list[Any]) -> None:
        """Each gradient is None, or an array and the mask of its entries."""
        for i, (p, entry) in enumerate(zip(params, grads, strict=True)):
            if entry is None:
                continue
            g, mask = entry
            g = -g if self.maximize else g
            m, v, t = self.state.get(i, (np.zeros_like(p), np.zeros_like(p), 0))
            t += 1
            beta1, beta2 = self.betas
            m = np.where(mask, beta1 * m + (1 - beta1) * g, m)
            v = np.where(mask, beta2 * v + (1 - beta2) * g**2, v)
            size = self.lr * np.sqrt(1 - beta2**t) / (1 - beta1**t)
            p -= np.where(mask, size * m / (np.sqrt(v) + self.eps), 0)
            self.state[i] = (m, v, t)
