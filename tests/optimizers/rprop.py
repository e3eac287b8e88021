"""iRprop-: figure 4 of Igel & Huesken (2000)."""

import numpy as np


class Rprop:
    def __init__(self, lr=1e-2, etas=(0.5, 1.2), step_sizes=(1e-6, 50), maximize=False):
        self.lr, self.etas, self.step_sizes, self.maximize = lr, etas, step_sizes, maximize
        self.prev, self.sizes = {}, {}

    def step(self, params, grads):
        minus, plus = self.etas
        for i, (p, g) in enumerate(zip(params, grads, strict=True)):
            if g is None:
                continue
            g = -g if self.maximize else g
            # torch takes the sign of NaN for 0.
            sign = np.where(np.isnan(g), 0, np.sign(g))
            turn = sign * np.sign(self.prev.get(i, np.zeros_like(p)))
            factor = np.where(turn > 0, plus, np.where(turn < 0, minus, 1.0))
            size = self.sizes.get(i, np.full_like(p, self.lr)) * factor
            self.sizes[i] = np.clip(size, *self.step_sizes)
            self.prev[i] = np.where(turn < 0, 0, sign)
            p[...] = p - self.sizes[i] * self.prev[i]
