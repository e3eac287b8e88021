"""Gradient descent: plain, with momentum (Polyak 1964), with Nesterov's form (Sutskever 2013)."""

import numpy as np


class SGD:
    def __init__(
        self, lr=1e-3, momentum=0, dampening=0, weight_decay=0, nesterov=False, maximize=False
    ):
        self.lr, self.momentum, self.dampening = lr, momentum, dampening
        self.weight_decay, self.nesterov, self.maximize = weight_decay, nesterov, maximize
        self.buffers = {}

    def step(self, params, grads):
        for i, (p, g) in enumerate(zip(params, grads, strict=True)):
            if g is None:
                continue
            d = -g if self.maximize else g
            if self.weight_decay:
                d = d + self.weight_decay * p
            if self.momentum:
                if i not in self.buffers:
                    self.buffers[i] = np.array(d)
                else:
                    self.buffers[i] = self.momentum * self.buffers[i] + (1 - self.dampening) * d
                d = d + self.momentum * self.buffers[i] if self.nesterov else self.buffers[i]
            p[...] = p - self.lr * d
