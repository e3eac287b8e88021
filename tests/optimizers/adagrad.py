"""Adagrad: figure 1 of Duchi, Hazan & Singer (2011) with a diagonal matrix."""

import numpy as np


class Adagrad:
    def __init__(
        self,
        lr=1e-2,
        lr_decay=0,
        weight_decay=0,
        initial_accumulator_value=0,
        eps=1e-10,
        maximize=False,
    ):
        self.lr, self.lr_decay, self.weight_decay = lr, lr_decay, weight_decay
        self.initial, self.eps, self.maximize = initial_accumulator_value, eps, maximize
        self.t, self.s = {}, {}

    def step(self, params, grads):
        for i, (p, g) in enumerate(zip(params, grads, strict=True)):
            if g is None:
                continue
            g = -g if self.maximize else g
            t = self.t[i] = self.t.get(i, 0) + 1
            if self.weight_decay:
                g = g + self.weight_decay * p
            self.s[i] = self.s.get(i, np.full_like(p, self.initial)) + g**2
            lr = self.lr / (1 + (t - 1) * self.lr_decay)
            p[...] = p - lr * g / (np.sqrt(self.s[i]) + self.eps)
