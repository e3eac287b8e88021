"""Adamax: algorithm 2 of Kingma & Ba (2015), with torch's epsilon beside the gradient."""

import numpy as np


class Adamax:
    def __init__(self, lr=2e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0, maximize=False):
        self.lr, self.betas, self.eps = lr, betas, eps
        self.weight_decay, self.maximize = weight_decay, maximize
        self.t, self.m, self.u = {}, {}, {}

    def step(self, params, grads):
        beta1, beta2 = self.betas
        for i, (p, g) in enumerate(zip(params, grads, strict=True)):
            if g is None:
                continue
            zeros = np.zeros_like(p)
            g = -g if self.maximize else g
            if self.weight_decay:
                g = g + self.weight_decay * p
            t = self.t[i] = self.t.get(i, 0) + 1
            self.m[i] = beta1 * self.m.get(i, zeros) + (1 - beta1) * g
            self.u[i] = np.maximum(beta2 * self.u.get(i, zeros), np.abs(g) + self.eps)
            p[...] = p - self.lr / (1 - beta1**t) * self.m[i] / self.u[i]
