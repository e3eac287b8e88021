"""Adadelta: algorithm 1 of Zeiler (2012)."""

import numpy as np


class Adadelta:
    def __init__(self, lr=1.0, rho=0.9, eps=1e-6, weight_decay=0, maximize=False):
        self.lr, self.rho, self.eps = lr, rho, eps
        self.weight_decay, self.maximize = weight_decay, maximize
        self.squares, self.updates = {}, {}

    def step(self, params, grads):
        rho, eps = self.rho, self.eps
        for i, (p, g) in enumerate(zip(params, grads, strict=True)):
            if g is None:
                continue
            zeros = np.zeros_like(p)
            g = -g if self.maximize else g
            if self.weight_decay:
                g = g + self.weight_decay * p
            self.squares[i] = rho * self.squares.get(i, zeros) + (1 - rho) * g**2
            delta = np.sqrt(self.updates.get(i, zeros) + eps) / np.sqrt(self.squares[i] + eps) * g
            self.updates[i] = rho * self.updates.get(i, zeros) + (1 - rho) * delta**2
            p[...] = p - self.lr * delta
