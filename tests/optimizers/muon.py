"""Muon in float64, from Jordan et al. (2024)."""

from __future__ import annotations

from typing import Any

import numpy as np


def newton_schulz(g: Any, coefficients: Any, steps: int, eps: float) -> Any:
    a, b, c = coefficients
    x = g.T if g.shape[0] > g.shape[1] else g
    x = x / max(np.linalg.norm(x), eps)
    for _ in range(steps):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.T if g.shape[0] > g.shape[1] else x


class Muon:
    def __init__(self, lr: float = 1e-3, weight_decay: float = 0.1, momentum: float = 0.95, nesterov: bool = True, ns_coefficients: Any = (3.4445, -4.7750, 2.0315), eps: float = 1e-7, ns_steps: int = 5, adjust_lr_fn: Any = None):  # fmt: skip
        self.lr, self.weight_decay, self.momentum = lr, weight_decay, momentum
        self.nesterov, self.adjust_lr_fn = nesterov, adjust_lr_fn
        self.iteration = (ns_coefficients, ns_steps, eps)
        self.state: dict[int, Any] = {}

    def step(self, params: list[Any], grads: list[Any]) -> None:
        mu = self.momentum
        for i, (p, g) in enumerate(zip(params, grads, strict=True)):
            if g is None:
                continue
            b = mu * self.state.get(i, 0.0) + (1 - mu) * g
            self.state[i] = b
            o = newton_schulz(mu * b + (1 - mu) * g if self.nesterov else b, *self.iteration)
            n, m = p.shape
            if self.adjust_lr_fn == "match_rms_adamw":
                ratio = 0.2 * np.sqrt(max(n, m))
            else:
                ratio = np.sqrt(max(1, n / m))
            p *= 1 - self.lr * self.weight_decay
            p -= self.lr * ratio * o
