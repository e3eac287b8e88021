"""Averaged gradient descent: Polyak & Juditsky (1992), with the schedules of Bottou (2010)."""

import numpy as np


class ASGD:
    def __init__(self, lr=1e-2, lambd=1e-4, alpha=0.75, t0=1e6, weight_decay=0, maximize=False):
        self.lr, self.lambd, self.alpha, self.t0 = lr, lambd, alpha, t0
        self.weight_decay, self.maximize = weight_decay, maximize
        self.t, self.ax, self.eta, self.mu = {}, {}, {}, {}

    def step(self, params, grads):
        for i, (p, g) in enumerate(zip(params, grads, strict=True)):
            if g is None:
                continue
            g = -g if self.maximize else g
            if self.weight_decay:
                g = g + self.weight_decay * p
            t = self.t[i] = self.t.get(i, 0) + 1
            # eta and mu are kept in float32, as torch does.
            eta = float(self.eta.get(i, np.float32(self.lr)))
            mu = float(self.mu.get(i, 1.0))
            p[...] = (1 - self.lambd * eta) * p - eta * g
            average = self.ax.get(i, np.zeros_like(p))
            self.ax[i] = average + mu * (p - average)
            self.eta[i] = np.float32(self.lr / (1 + self.lambd * self.lr * t) ** self.alpha)
            self.mu[i] = np.float32(1 / max(1, t - self.t0))
