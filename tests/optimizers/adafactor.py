"""Adafactor in float64, from Shazeer & Stern (2018) with torch's two epsilons."""

from __future__ import annotations

from typing import Any

import numpy as np


def rms(x: Any) -> float:
    return float(np.sqrt(np.mean(x**2)))


class Adafactor:
    def __init__(self, lr: float = 1e-2, beta2_decay: float = -0.8, eps: Any = (None, 1e-3), d: float = 1.0, weight_decay: float = 0.0, maximize: bool = False):  # fmt: skip
        self.lr, self.beta2_decay, self.d = lr, beta2_decay, d
        # Machine epsilon is that of the parameters under test, which may be float32.
        self.eps1, self.eps2 = eps
        self.weight_decay, self.maximize = weight_decay, maximize
        self.state: dict[int, Any] = {}

    def step(self, params: list[Any], grads: list[Any]) -> None:
        for i, (p, g) in enumerate(zip(params, grads, strict=True)):
            if g is None:
                continue
            g = -g if self.maximize else g
            t, row, column, v = self.state.get(i, (0, 0.0, 0.0, 0.0))
            t += 1
            beta2 = 1 - t**self.beta2_decay
            alpha = max(self.eps2, rms(p)) * min(self.lr, 1 / np.sqrt(t))
            if p.ndim > 1:
                row = beta2 * row + (1 - beta2) * np.mean(g**2, axis=-1, keepdims=True)
                column = beta2 * column + (1 - beta2) * np.mean(g**2, axis=-2, keepdims=True)
                scale = np.maximum(np.mean(row, axis=-2, keepdims=True), self.eps1)
                estimate = row @ column / scale
            else:
                v = beta2 * v + (1 - beta2) * g**2
                estimate = v
            u = g / np.sqrt(np.maximum(estimate, self.eps1**2))
            p *= 1 - self.lr * self.weight_decay
            p -= alpha * u / max(1.0, rms(u) / self.d)
            self.state[i] = (t, row, column, v)
